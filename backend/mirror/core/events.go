package core

// Event is one of the types below: what Step is told.
type Event interface{ event() }

// Tick says that time has passed.
type Tick struct{}

// Received is a message from the other node.
type Received struct{ Message Message }

// ArbiterSays is the arbiter's answer to any AskArbiter: what it has now.
type ArbiterSays struct{ Epoch Epoch }

// Appended says that this node wrote a record into a shard's log, in the epoch
// of the newest SetWriter. It is told before a later SetWriter is carried out.
type Appended struct {
	Shard  uint8
	Pos    Pos
	ID     uint64 // of the Execute that made it; 0: another
	Result any
}

// NotAppended says that an Execute made no record: the operation was refused, or
// had nothing to do, as Result says. Seq is the newest record that it saw.
type NotAppended struct {
	Shard   uint8
	ID      uint64
	Outcome Outcome
	Result  any
	Seq     uint64
}

// Synced says that a shard's log is durable up to a record.
type Synced struct {
	Shard uint8
	Pos   Pos
}

// Trimmed says that a shard's log begins after a record now.
type Trimmed struct {
	Shard uint8
	Seq   uint64
}

// Write asks for a change, Read for leave to read, both on behalf of a client.
// Each ID is answered once.
type Write struct {
	ID    uint64
	Shard uint8
	Op    any
}

// Read asks for leave to read a shard here.
type Read struct {
	ID    uint64
	Shard uint8
}

// Absorbed says that an Absorb is in the log, up to Seq.
type Absorbed struct {
	Shard uint8
	From  Pos // the follower's position
	Seq   uint64
}

// Misfit says that a committed record did not fit the state of an account,
// which is shut off until an Adopt.
type Misfit struct {
	Shard uint8
	User  string
}

// Promote is an operator's word: serve, whatever may be lost.
type Promote struct{}

func (Tick) event()        {}
func (Received) event()    {}
func (ArbiterSays) event() {}
func (Appended) event()    {}
func (NotAppended) event() {}
func (Synced) event()      {}
func (Trimmed) event()     {}
func (Write) event()       {}
func (Read) event()        {}
func (Absorbed) event()    {}
func (Misfit) event()      {}
func (Promote) event()     {}

// Action is one of the types below: what the caller of Step carries out, in
// this order.
type Action interface{ action() }

// Save keeps this durably. It is carried out before what follows it.
type Save struct{ Saved Saved }

// Send gives a message to the network. Content is the caller's to fill in, from
// its state at this moment.
type Send struct{ Message Message }

// AskArbiter asks the arbiter to replace From by To, or only what it has when
// they are equal. No answer is an answer, too.
type AskArbiter struct{ From, To Epoch }

// SetWriter opens a shard's log for changes made here, stamped with an epoch,
// or closes it. Side is the node whose UID blocks are to be used, or Nobody.
type SetWriter struct {
	Shard uint8
	Open  bool
	Epoch Epoch
	Side  Node
}

// Execute makes a change as the shard's writer: it ends in Appended or
// NotAppended.
type Execute struct {
	ID    uint64
	Shard uint8
	Op    any
}

// Append writes the other node's records behind After; what a log has after
// that goes away first. Synced follows.
type Append struct {
	Shard   uint8
	After   uint64
	Cut     bool // there is something to go away
	Epochs  []Epoch
	First   uint64
	Content any
	Skip    int // records of Content that the log has already
}

// Apply brings a shard's state to a record, and shows it.
type Apply struct {
	Shard uint8
	Seq   uint64
}

// Answer ends a Read or a Write.
type Answer struct {
	ID      uint64
	Outcome Outcome
	Seq     uint64 // the record, or the newest one to be seen
	Result  any
}

// Absorb merges what the other node acknowledged into this node's state, by
// records of its own.
type Absorb struct {
	Shard   uint8
	Common  uint64
	From    Pos
	Content any
}

// Install replaces a shard's state and log by the other node's, in one durable
// step. An account that is shut off there is a Misfit here, too.
type Install struct {
	Shard    uint8
	Seq      uint64
	Snapshot Snapshot
}

// Adopt replaces the state of an account that is shut off by the other node's
// after a record. If the shard is not there yet it waits for it; records of the
// account behind it are applied. What still does not fit is another Misfit.
type Adopt struct {
	Shard   uint8
	User    string
	Seq     uint64
	Content any
}

func (Save) action()       {}
func (Send) action()       {}
func (AskArbiter) action() {}
func (SetWriter) action()  {}
func (Execute) action()    {}
func (Append) action()     {}
func (Apply) action()      {}
func (Answer) action()     {}
func (Absorb) action()     {}
func (Install) action()    {}
func (Adopt) action()      {}

// Outcome is how a client's wish ended.
type Outcome uint8

// Yes, not now, and nobody knows.
const (
	OK Outcome = iota
	Busy
	Unknown
)

func (o Outcome) String() string { return [...]string{"ok", "busy", "unknown"}[o] }
