package ldap

import "strings"

// AmbiguousError says that more than one entry has the name. It arrives
// wrapped in an ErrUnavailable: which of them is meant only a person can say.
type AmbiguousError struct{ DNs []string }

func (e *AmbiguousError) Error() string {
	return "more than one entry has the name: " + strings.Join(e.DNs, " and ")
}

// listed makes one error of those of several servers.
func listed(failures []error) error {
	if len(failures) == 1 {
		return failures[0]
	}
	return &failureList{failures}
}

type failureList struct{ errs []error }

func (l *failureList) Unwrap() []error { return l.errs }
func (l *failureList) Error() string {
	var parts []string
	for _, err := range l.errs {
		parts = append(parts, err.Error())
	}
	return strings.Join(parts, "; ")
}
