package lookup

import (
	"maps"
	"slices"
)

// Account is one user's record in the directory. A value received from a
// Directory is the caller's to keep, but its maps and slices may be shared
// with a cache: read them, or Clone first.
type Account struct {
	Name string // user@domain, in CleanName's form

	// Home is the name of the backend that owns the account (tohost). Empty
	// means: found, without a home; such accounts live on the cluster's
	// default backend.
	Home string

	// Generation grows each time Home changes. Zero when the directory does
	// not keep it.
	Generation uint64

	Status   Status
	Quota    int64    // bytes; zero means no limit known here
	Forwards []string // addresses that get a copy, or the mail instead (policy of the backend)

	// PasswordMark is another one once the password is: when it was changed, in
	// the directory's own words. Empty when the directory does not say.
	PasswordMark string

	// Attributes holds every other attribute the directory returned, under
	// the directory's own (lower-case) label.
	Attributes map[string]string
}

// Clone returns a copy that shares nothing with a.
func (a Account) Clone() Account {
	a.Forwards = slices.Clone(a.Forwards)
	a.Attributes = maps.Clone(a.Attributes)
	return a
}

// Status is the state of an account as its directory words it (mailstatus).
type Status string

// The status words that SurgeMail's user databases use. The empty word means
// StatusOK; an unknown word refuses logins and accepts mail, so that a typing
// mistake neither opens a door nor loses a message.
const (
	StatusOK        Status = "ok"
	StatusGood      Status = "good"
	StatusPayDue    Status = "paydue"
	StatusPayUp     Status = "payup"
	StatusSuspended Status = "suspended"
	StatusBanned    Status = "banned"
	StatusCancelled Status = "cancelled"
	StatusClosed    Status = "closed"
)

// MayLogin reports whether an account in this state may log in.
func (s Status) MayLogin() bool {
	switch s {
	case "", StatusOK, StatusGood, StatusPayDue:
		return true
	}
	return false
}

// MayReceive reports whether mail is accepted for an account in this state.
func (s Status) MayReceive() bool {
	switch s {
	case StatusBanned, StatusCancelled, StatusClosed:
		return false
	}
	return true
}
