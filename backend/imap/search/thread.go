package search

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"

	"switchyard/backend"
	"switchyard/backend/imap/syntax"
)

// Forest is the answer to THREAD. Nodes are numbers; a node without a message
// is a dummy, whose children belong together.
type Forest struct {
	positions []int // of the node's message; -1: a dummy
	sent      []int64
	kids      [][]int
	roots     []int
}

// maxSteps bounds the search for loops in one THREAD. Real mail needs a few
// steps a link; what goes beyond it (long chains of references, made to be
// slow) is left unlinked.
const maxSteps = 20_000_000

// Thread puts the messages at positions, which ascend, into threads
// (RFC 5256). A message that is gone is left out.
func (m *Mailbox) Thread(ctx context.Context, positions []int, by syntax.ThreadOp) (*Forest, error) {
	var all []*facts
	f := &Forest{}
	for _, i := range positions {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		c := candidate{Message: m.Messages.At(i), box: m, ctx: ctx, position: i}
		one, err := m.facts(&c)
		if errors.Is(err, backend.ErrNoMessage) {
			m.Gone = true
			continue
		}
		if err != nil {
			return nil, err
		}
		sent := one.sent
		if !one.dated {
			sent = c.InternalDate.Unix()
		}
		all = append(all, one)
		f.positions = append(f.positions, i)
		f.sent = append(f.sent, sent)
	}
	if by == syntax.ThreadOrderedSubject {
		f.bySubject(all)
	} else {
		f.byReferences(all)
	}
	return f, nil
}

// before orders siblings: by sent date, then by place in the mailbox. Nodes of
// messages are numbered in the mailbox's order; a dummy counts as its first
// child.
func (f *Forest) before(a, b int) int {
	a, b = f.face(a), f.face(b)
	if r := cmp.Compare(f.sent[a], f.sent[b]); r != 0 {
		return r
	}
	return cmp.Compare(a, b)
}

// face is the node itself, or a dummy's first child, which is a message or
// has one (only the root has dummies, and a dummy's child is none).
func (f *Forest) face(n int) int {
	for f.positions[n] < 0 && len(f.kids[n]) > 0 {
		n = f.kids[n][0]
	}
	return n
}

// bySubject is ORDEREDSUBJECT: the first message of each subject is a root,
// the others are its children.
func (f *Forest) bySubject(all []*facts) {
	f.kids = make([][]int, len(all))
	order := make([]int, len(all))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, f.before)
	first := make(map[uint64]int)
	for _, n := range order {
		root, known := first[all[n].subject]
		if !known {
			first[all[n].subject] = n
			f.roots = append(f.roots, n)
			continue
		}
		f.kids[root] = append(f.kids[root], n)
	}
}

// byReferences is REFERENCES, in the RFC's steps.
func (f *Forest) byReferences(all []*facts) {
	parents := f.link(all)
	f.gather(parents)
	f.prune()
	for _, r := range f.roots {
		if f.positions[r] < 0 {
			slices.SortFunc(f.kids[r], f.before)
		}
	}
	slices.SortFunc(f.roots, f.before)
	f.mergeSubjects(all)
	for n := range f.kids {
		if f.positions[n] >= 0 {
			slices.SortFunc(f.kids[n], f.before)
		}
	}
	for _, r := range f.roots {
		if f.positions[r] < 0 {
			slices.SortFunc(f.kids[r], f.before)
		}
	}
	slices.SortFunc(f.roots, f.before)
}

// linker makes parents of references.
type linker struct {
	parent   []int  // -1: none
	hasChild []bool // some node names it as its parent, or once did
	steps    int
}

func (l *linker) add() int {
	l.parent = append(l.parent, -1)
	l.hasChild = append(l.hasChild, false)
	return len(l.parent) - 1
}

// loops reports whether child is parent or above it.
func (l *linker) loops(parent, child int) bool {
	if parent == child {
		return true
	}
	if !l.hasChild[child] {
		return false
	}
	for n := l.parent[parent]; n >= 0; n = l.parent[n] {
		if l.steps++; n == child || l.steps > maxSteps {
			return true
		}
	}
	return false
}

func (l *linker) link(parent, child int) {
	l.parent[child] = parent
	l.hasChild[parent] = true
}

// link is step 1: nodes for the messages and for those that they refer to, and
// everybody's parent.
func (f *Forest) link(all []*facts) []int {
	var l linker
	ids := make(map[uint64]int, 2*len(all))
	for i := range all {
		n := l.add()
		if id := all[i].id; id != 0 {
			if _, taken := ids[id]; !taken { // a second one gets an id of its own
				ids[id] = n
			}
		}
	}
	for i := range all {
		last := -1
		for _, ref := range all[i].refs {
			n, known := ids[ref]
			if !known {
				n = l.add()
				ids[ref] = n
				f.positions = append(f.positions, -1)
				f.sent = append(f.sent, 0)
			}
			if last >= 0 && l.parent[n] < 0 && !l.loops(last, n) {
				l.link(last, n)
			}
			last = n
		}
		l.parent[i] = -1
		if last >= 0 && !l.loops(last, i) {
			l.link(last, i)
		}
	}
	return l.parent
}

// gather is step 2: children and roots.
func (f *Forest) gather(parents []int) {
	f.kids = make([][]int, len(parents))
	for n, p := range parents {
		if p < 0 {
			f.roots = append(f.roots, n)
		} else {
			f.kids[p] = append(f.kids[p], n)
		}
	}
}

// prune is step 3: dummies go, their children take their place; only a root
// with several children stays.
func (f *Forest) prune() {
	order := slices.Clone(f.roots) // parents before children
	for i := 0; i < len(order); i++ {
		order = append(order, f.kids[order[i]]...)
	}
	for _, n := range slices.Backward(order) {
		f.kids[n] = f.promoted(f.kids[n])
	}
	var roots []int
	for _, r := range f.roots {
		switch {
		case f.positions[r] >= 0 || len(f.kids[r]) > 1:
			roots = append(roots, r)
		case len(f.kids[r]) == 1:
			roots = append(roots, f.kids[r][0])
		}
	}
	f.roots = roots
}

// promoted puts the children of dummies, which have been pruned already, in
// their place.
func (f *Forest) promoted(kids []int) []int {
	if !slices.ContainsFunc(kids, func(n int) bool { return f.positions[n] < 0 }) {
		return kids
	}
	var out []int
	for _, k := range kids {
		if f.positions[k] >= 0 {
			out = append(out, k)
		} else {
			out = append(out, f.kids[k]...)
		}
	}
	return out
}

// mergeSubjects is step 5: threads with the same subject become one.
func (f *Forest) mergeSubjects(all []*facts) {
	table := make(map[uint64]int)
	for _, r := range f.roots {
		subject := all[f.face(r)].subject
		if subject == 0 {
			continue
		}
		t, known := table[subject]
		if !known || f.positions[t] >= 0 && (f.positions[r] < 0 || all[t].reply && !all[r].reply) {
			table[subject] = r
		}
	}
	gone := make(map[int]bool)
	for _, r := range slices.Clone(f.roots) {
		subject := all[f.face(r)].subject
		t := table[subject]
		if subject == 0 || t == r || gone[r] {
			continue
		}
		tDummy, rDummy := f.positions[t] < 0, f.positions[r] < 0
		switch {
		case tDummy && rDummy:
			f.kids[t] = append(f.kids[t], f.kids[r]...)
			gone[r] = true
		case tDummy:
			f.kids[t] = append(f.kids[t], r)
			gone[r] = true
		case !rDummy && all[r].reply && !all[t].reply:
			f.kids[t] = append(f.kids[t], r)
			gone[r] = true
		default:
			d := f.dummy(t, r)
			gone[t], gone[r] = true, true
			f.roots = append(f.roots, d)
			table[subject] = d
		}
	}
	f.roots = slices.DeleteFunc(f.roots, func(n int) bool { return gone[n] })
}

// dummy makes a dummy over two messages.
func (f *Forest) dummy(a, b int) int {
	f.positions = append(f.positions, -1)
	f.sent = append(f.sent, 0)
	f.kids = append(f.kids, []int{a, b})
	return len(f.positions) - 1
}

// Append appends the threads as THREAD's answer writes them, each message as
// number names it. It uses no recursion: threads may be deep.
func (f *Forest) Append(dst []byte, number func(position int) uint32) []byte {
	type frame struct {
		nodes []int // siblings still to be written
		close bool  // a ")" follows the last
	}
	stack := []frame{{nodes: f.roots}}
	for len(stack) > 0 {
		top := &stack[len(stack)-1]
		if len(top.nodes) == 0 {
			if top.close {
				dst = append(dst, ')')
			}
			stack = stack[:len(stack)-1]
			continue
		}
		n := top.nodes[0]
		top.nodes = top.nodes[1:]
		dst = append(dst, '(')
		written := false
		for {
			if f.positions[n] >= 0 {
				if written {
					dst = append(dst, ' ')
				}
				dst = strconv.AppendUint(dst, uint64(number(f.positions[n])), 10)
				written = true
			}
			if len(f.kids[n]) != 1 {
				break
			}
			n = f.kids[n][0]
		}
		if len(f.kids[n]) > 0 && written {
			dst = append(dst, ' ')
		}
		stack = append(stack, frame{f.kids[n], true})
	}
	return dst
}
