package lookup

import "context"

// Change says that something about accounts may be different from now on.
type Change struct {
	// Name is the account, in CleanName's form. Empty means that any account
	// may have changed: the feed was interrupted, or cannot say more.
	Name string

	// Sessions says that the change bears on who may be logged in: the
	// password, the status, the home, or the account itself is gone. Sessions
	// of the account have to prove themselves again.
	Sessions bool
}

// Watcher is a Directory that can tell of changes while they happen. Not every
// directory can; who holds answers in memory asks for the interface and falls
// back to the answers' age without it.
type Watcher interface {
	// Watch calls changed for each change from now on, in the directory's
	// order, one at a time, until ctx ends; then it returns nil. When the
	// feed breaks, Watch mends it by itself, and calls changed with an empty
	// Name once it is whole again, since changes may have been missed.
	//
	// It returns an error for which errors.Is(err, ErrNoFeed) holds at once
	// when the directory turns out to have no feed.
	Watch(ctx context.Context, changed func(Change)) error
}
