package static

import (
	"context"
	"maps"
	"slices"

	"switchyard/lookup"
)

// watcher is one Watch.
type watcher struct{ changed func(lookup.Change) }

// Watch implements lookup.Watcher. The calls are made by Replace, which waits
// for them: changed must not call it.
func (d *Directory) Watch(ctx context.Context, changed func(lookup.Change)) error {
	w := &watcher{changed}
	d.mu.Lock()
	d.watchers[w] = true
	d.mu.Unlock()
	<-ctx.Done()
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.watchers, w)
	return nil
}

// tell tells everyone what is different. The caller holds mu.
func (d *Directory) tell(old, next *content) {
	for name, was := range old.records {
		now, still := next.records[name]
		switch {
		case !still || bearsOnSessions(&was, &now):
			d.change(lookup.Change{Name: name, Sessions: true})
		case differs(&was.Account, &now.Account):
			d.change(lookup.Change{Name: name})
		}
	}
	for name := range next.records {
		if _, known := old.records[name]; !known {
			d.change(lookup.Change{Name: name})
		}
	}
}

func (d *Directory) change(c lookup.Change) {
	for w := range d.watchers {
		w.changed(c)
	}
}

// bearsOnSessions reports whether who is logged in must prove it again.
func bearsOnSessions(was, now *Record) bool {
	a, b := &was.Account, &now.Account
	return was.Hash != now.Hash || a.Home != b.Home || a.Generation != b.Generation || a.Status != b.Status
}

// differs reports whether anything else is different.
func differs(a, b *lookup.Account) bool {
	return a.Quota != b.Quota || !slices.Equal(a.Forwards, b.Forwards) || !maps.Equal(a.Attributes, b.Attributes)
}
