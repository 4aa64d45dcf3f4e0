package store

import "switchyard/backend"

// publish shows the change. The caller holds the user's lock.
func (t *tx) publish() {
	u := t.u
	var signal []*backend.Watch
	u.mu.Lock()
	u.row = t.row
	u.exists = u.exists || t.created
	for name, on := range t.subs {
		if on {
			u.subs[name] = struct{}{}
		} else {
			delete(u.subs, name)
		}
	}
	for _, tb := range t.boxes {
		if tb.b != nil && u.names[tb.oldName] == tb.b && (tb.deleted || tb.Name != tb.oldName) {
			delete(u.names, tb.oldName)
		}
	}
	for id, tb := range t.boxes {
		for w := range u.watches[id] {
			signal = append(signal, w)
		}
		if tb.deleted {
			delete(u.boxes, id)
			continue
		}
		tb.show(u)
	}
	u.mu.Unlock()
	for _, tb := range t.boxes {
		if tb.deleted && tb.b != nil {
			u.s.views.gone(tb.b)
		}
	}
	if u.s.live.add(t.live) {
		select {
		case u.s.wake <- struct{}{}:
		default:
		}
	}
	for _, w := range signal {
		w.Signal()
	}
}

// show puts the mailbox into the user. The caller holds the user's mu.
func (tb *txBox) show(u *user) {
	b := tb.b
	if b == nil {
		b = &box{u: u}
	}
	b.Box = tb.Box
	u.boxes[b.ID], u.names[b.Name] = b, b
	if b.loaded && tb.conformed {
		b.messages = tb.whole
	} else if b.loaded {
		b.messages = b.messages.Remove(tb.removed).Update(tb.changed).Append(tb.added...)
	}
}
