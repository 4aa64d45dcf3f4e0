package core

import "time"

// Message is what one node tells the other. Messages may be lost, late, twice
// or out of order.
type Message struct {
	From   Node
	Boot   uint64 // of the sender
	Epoch  Epoch  // newest that the sender knows
	Member bool   // the sender takes part in it
	Body   any    // one of the types below
}

// Beat tells that a node lives. Echo is the Sent of the newest beat that came
// from the other node; zero when it promises nothing.
type Beat struct {
	Sent     time.Duration
	Echo     time.Duration
	EchoBoot uint64
}

// Records are a writer's records First to Last of a shard, behind the record
// Prev. The adapter adds the records themselves to Content.
type Records struct {
	Shard       uint8
	Prev        Pos
	First, Last uint64  // Last < First: none
	Epochs      []Epoch // of each
	End         uint64  // the writer's newest
	Commit      uint64
	Content     any
}

// Ack says that a follower has a shard's records durably up to Seq, all the
// same as the writer's. More says that it has committed ones behind those, which
// may be others than the writer's.
type Ack struct {
	Shard uint8
	Seq   uint64
	More  bool
}

// Reject says that a follower's log does not have the record that Records
// builds on.
type Reject struct {
	Shard  uint8
	Spans  []Span
	Commit Pos
}

// ExportAsk asks a follower for what it acknowledged after Common.
type ExportAsk struct {
	Shard  uint8
	Common uint64
}

// Export is the answer: the state at the follower's Commit. The adapter adds
// the content.
type Export struct {
	Shard   uint8
	Common  uint64
	Commit  Pos
	Content any
}

// Snapshot is a writer's state of a shard at its record Seq. Absorbed is the
// follower's position that the state includes beside it. The adapter adds the
// content.
type Snapshot struct {
	Shard    uint8
	Seq      uint64
	Spans    []Span
	Absorbed Pos
	Content  any
}

// Prepare asks whether the follower could take part in an epoch of both.
type Prepare struct{ To Epoch }

// Prepared is yes: the follower will remember it across a crash.
type Prepared struct{ To Epoch }

// ReadAsk asks the writer for a shard's commit index.
type ReadAsk struct {
	ID    uint64
	Shard uint8
}

// ReadAt is the answer.
type ReadAt struct {
	ID    uint64
	Shard uint8
	Seq   uint64
}

// Forward hands a write to the shard's writer.
type Forward struct {
	ID    uint64
	Shard uint8
	Op    any
}

// Done is the answer: committed as record Seq, or an outcome that is no yes.
type Done struct {
	ID      uint64
	Shard   uint8
	Outcome Outcome
	Seq     uint64
	Result  any
}

// UserAsk asks the other node for an account's state, since a record of it did not
// fit here.
type UserAsk struct {
	Shard uint8
	User  string
}

// UserState is the answer: the state after the record At. The adapter adds
// the content, or sends nothing when the account does not fit there either.
type UserState struct {
	Shard   uint8
	User    string
	At      Pos
	Content any
}
