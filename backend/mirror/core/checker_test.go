package core

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"switchyard/backend"
	"switchyard/backend/mirror/merge"
)

// checker collects what clients were told, and holds it against the promises.
type checker struct {
	happened map[string]int
	named    map[string]backend.GUID // mailbox, UIDVALIDITY, UID: what it names
	writers  map[string]Node         // shard, epoch: who writes
	chosen   map[string]string       // shard, seq: the record
	acked    map[[32]byte]string     // deliveries that were answered OK, and their user
	tried    map[[32]byte]string
	removed  map[backend.GUID]bool     // somebody may have expunged it
	ofGUID   map[backend.GUID][32]byte // which delivery a message is
	damaged  map[string]bool
	high     [3]map[string]mark // by node, or 0 for both: what clients have seen
	pending  map[uint64]*request
}

type mark struct {
	next backend.UID
	seq  backend.ModSeq
}

type request struct {
	node  Node
	user  string
	read  bool
	op    op
	began map[string]mark
	tries int
}

type result struct {
	kind string
	box  backend.GUID
	uid  backend.UID
}

func newChecker() *checker {
	c := &checker{
		happened: make(map[string]int), named: make(map[string]backend.GUID), writers: make(map[string]Node),
		chosen: make(map[string]string), acked: make(map[[32]byte]string), tried: make(map[[32]byte]string),
		removed: make(map[backend.GUID]bool), ofGUID: make(map[backend.GUID][32]byte), damaged: make(map[string]bool),
		pending: make(map[uint64]*request),
	}
	for i := range c.high {
		c.high[i] = make(map[string]mark)
	}
	return c
}

var users = []string{"u0", "v0", "u1", "v1", "u2", "v2", "u3", "v3"}

func shardOfUser(u string) uint8 { return u[1] - '0' }

// clients want something.
func (w *world) clients() {
	for range 2 {
		n := w.nodes[1+w.rng.IntN(2)]
		if n.m == nil || n.paused > w.now {
			continue
		}
		w.ids++
		user := users[w.rng.IntN(len(users))]
		q := &request{node: n.id, user: user}
		w.pending[w.ids] = q
		if w.chance(0.4) {
			q.read, q.began = true, maps.Clone(w.high[w.view(n.id)])
			n.tell(Read{ID: w.ids, Shard: shardOfUser(user)})
			continue
		}
		q.op = op{user: user, dice: w.rng.Uint64(), kind: []string{"add", "add", "add", "add", "flag", "flag", "expunge", "create", "rename", "delete"}[w.rng.IntN(10)]}
		if q.op.kind == "add" {
			for i := range q.op.did {
				q.op.did[i] = byte(w.rng.Uint32())
			}
			w.tried[q.op.did] = user
		}
		n.tell(Write{ID: w.ids, Shard: shardOfUser(user), Op: q.op})
	}
}

// view is whose marks count: with an arbiter a client may change nodes.
func (w *world) view(n Node) Node {
	if w.mode.fenced && !w.mode.forced {
		return Nobody
	}
	return n
}

func (w *world) answer(n *simNode, a Answer) {
	q := w.pending[a.ID]
	if q == nil {
		w.fail("request %d is answered twice", a.ID)
		return
	}
	delete(w.pending, a.ID)
	w.happened[fmt.Sprintf("%s %v", map[bool]string{true: "read", false: "write"}[q.read], a.Outcome)]++
	switch {
	case q.read && a.Outcome == OK:
		w.observe(n, q)
	case q.read:
	case a.Outcome == OK:
		if q.op.kind == "add" {
			w.acked[q.op.did] = q.user
		}
		if r, ok := a.Result.(result); ok && r.kind == "add" {
			high := w.high[w.view(n.id)]
			key := fmt.Sprint(r.box)
			m := high[key]
			m.next = max(m.next, r.uid+1)
			high[key] = m
		}
	case q.op.kind == "add" && q.tries < 4:
		// The sender comes again, perhaps to the other node.
		q.tries++
		w.after(w.upTo(4*time.Second), func() {
			n := w.nodes[1+w.rng.IntN(2)]
			if n.m == nil || n.paused > w.now {
				return
			}
			w.ids++
			q.node = n.id
			w.pending[w.ids] = q
			n.tell(Write{ID: w.ids, Shard: shardOfUser(q.user), Op: q.op})
		})
	}
}

// gone forgets the requests of a node that went down.
func (w *world) gone(n *simNode) {
	maps.DeleteFunc(w.pending, func(_ uint64, q *request) bool { return q.node == n.id })
}

// observe is a client that looks at all mailboxes of its user.
func (w *world) observe(n *simNode, q *request) {
	shard := shardOfUser(q.user)
	st := &n.states[shard]
	a := st.accounts[q.user]
	if _, shut := st.shut[q.user]; shut || a == nil || w.damaged[q.user] {
		return
	}
	high := w.high[w.view(n.id)]
	for _, id := range slices.SortedFunc(maps.Keys(a.Boxes), func(x, y backend.GUID) int { return slices.Compare(x[:], y[:]) }) {
		b := a.Boxes[id]
		key := fmt.Sprint(id)
		if was := q.began[key]; b.UIDNext < was.next || b.HighestModSeq < was.seq {
			w.fail("%v shows %s of %s at uidnext %d, modseq %d after a client saw %d, %d", n.id, b.Name, q.user, b.UIDNext, b.HighestModSeq, was.next, was.seq)
		}
		high[key] = mark{max(high[key].next, b.UIDNext), max(high[key].seq, b.HighestModSeq)}
		w.uids(id, b)
		if n.m.State() != Sync {
			b.Exposed = true
		}
	}
}

func (w *world) uids(id backend.GUID, b *merge.Box) {
	for uid, m := range b.Messages {
		key := fmt.Sprint(id, b.UIDValidity, uid)
		if was, ok := w.named[key]; ok && was != m.GUID && !w.mode.forced {
			w.fail("uid %d of %s names two messages", uid, b.Name)
		}
		w.named[key] = m.GUID
	}
}

// planned notes what a change may remove, whether or not it is made.
func (w *world) planned(r *rec, a *merge.Account) {
	switch r.kind {
	case "add":
		w.ofGUID[r.guid] = r.did
	case "expunge":
		w.removed[r.guid] = true
	case "delete":
		for _, m := range a.Boxes[r.box].Messages {
			w.removed[m.GUID] = true
		}
	}
}

func (w *world) wrote(n Node, shard uint8, pos Pos) {
	key := fmt.Sprint(shard, pos.Epoch)
	if was, ok := w.writers[key]; ok && was != n {
		w.fail("both nodes write shard %d in epoch %v", shard, pos.Epoch)
	}
	w.writers[key] = n
}

// applied checks that a record's number, once committed, means one record.
func (w *world) applied(n *simNode, shard uint8, r *rec) {
	if !w.mode.fenced || w.mode.forced {
		return
	}
	key, what := fmt.Sprint(shard, " ", r.pos.Seq), fmt.Sprint(r.pos.Epoch, r.user, r.kind, r.guid)
	if was, ok := w.chosen[key]; ok && was != what {
		w.fail("%v applies record %d of shard %d as %s; it was %s", n.id, r.pos.Seq, shard, what, was)
	}
	w.chosen[key] = what
}

// settle lets both nodes come together, and checks what is there.
func (w *world) settle() {
	w.calm, w.lossy, w.cut, w.away = true, 0, [3]bool{}, [3]bool{}
	for _, n := range w.nodes[1:] {
		n.paused = 0
		if n.m == nil {
			n.start()
		}
	}
	end := w.now + 30*time.Second
	for w.now < end && w.failure == "" && !w.settled() {
		w.step()
	}
	if w.failure != "" {
		return
	}
	a, b := w.nodes[1], w.nodes[2]
	if !w.settled() {
		for _, n := range w.nodes[1:] {
			for i := range n.states {
				sh := n.m.shards[i]
				w.log("%v shard %d: %+v; applied %d, shut off %v, absorb %v", n.id, i, sh, n.states[i].applied, n.states[i].shut, n.states[i].absorb != nil)
			}
		}
		w.fail("30 s after the last fault the nodes are %v and %v, lag %d and %d", a.m.State(), b.m.State(), a.m.Lag(), b.m.Lag())
		return
	}
	copies := make(map[[32]byte]int)
	excused := make(map[[32]byte]bool)
	for g, did := range w.ofGUID {
		if w.removed[g] {
			excused[did] = true
		}
	}
	for i := range a.states {
		for _, u := range users {
			x, y := a.states[i].accounts[u], b.states[i].accounts[u]
			if !w.damaged[u] && !reflect.DeepEqual(plain(x), plain(y)) {
				w.fail("account %s differs between the nodes", u)
			}
			if x == nil || w.damaged[u] {
				continue
			}
			for id, box := range x.Boxes {
				w.uids(id, box)
				for _, m := range box.Messages {
					copies[w.ofGUID[m.GUID]]++
				}
			}
		}
	}
	for did, u := range w.tried {
		n := copies[did]
		if _, ok := w.acked[did]; ok && n == 0 && !excused[did] && !w.damaged[u] {
			w.fail("a delivery to %s that was acknowledged is lost", u)
		}
		if n > 1 {
			w.fail("a delivery to %s is there %d times", u, n)
		}
	}
}

func (w *world) settled() bool {
	for _, n := range w.nodes[1:] {
		if n.m == nil || n.m.State() != Sync || n.m.Lag() > 0 || n.m.Unreplicated() > 0 {
			return false
		}
		for i := range n.states {
			commit, last := n.m.Committed(uint8(i))
			peer, _ := w.nodes[n.id.Peer()].m.Committed(uint8(i))
			if commit != last || commit != peer {
				return false
			}
			for u := range n.states[i].shut {
				if _, both := w.nodes[n.id.Peer()].states[i].shut[u]; !both {
					return false
				}
			}
		}
	}
	return true
}

// plain leaves out what is not replicated.
func plain(a *merge.Account) *merge.Account {
	if a == nil {
		return nil
	}
	a = a.Clone()
	for _, b := range a.Boxes {
		b.Exposed, b.JumpedIn = false, 0
	}
	return a
}
