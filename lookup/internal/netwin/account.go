package netwin

import (
	"maps"
	"math"
	"strconv"
	"strings"

	"switchyard/lookup"
)

// The labels that mean something to an account. All but Generation and Alias are
// NetWin's own.
const (
	Home       = "tohost"
	Generation = "homegen"
	Status     = "mailstatus"
	Quota      = "quota"
	Forward    = "fwd"
	Alias      = "alias" // a record that is none: its mail goes elsewhere
)

// Locked is the hash of a record that nobody can log in to.
const Locked = "*"

// Account makes an account of its labels, which the account's Attributes keep.
// The name is clean. A homegen that is no number is an error, since routing
// depends on it. A quota that is none means that no limit is known here; the
// word stays in the attributes.
func Account(name string, labels map[string]string) (lookup.Account, error) {
	a := lookup.Account{
		Name:       name,
		Home:       labels[Home],
		Status:     lookup.Status(strings.ToLower(labels[Status])),
		Attributes: labels,
	}
	generation, err := ParseGeneration(labels[Generation])
	if err != nil {
		return lookup.Account{}, err
	}
	a.Generation = generation
	if quota, err := ParseQuota(labels[Quota]); err == nil {
		a.Quota = quota
	}
	for address := range strings.SplitSeq(labels[Forward], ",") {
		if address = strings.TrimSpace(address); address != "" {
			a.Forwards = append(a.Forwards, address)
		}
	}
	return a, nil
}

// Labels is the opposite of Account: the attributes, and the account's own
// fields where the attributes do not say the same.
func Labels(a lookup.Account) map[string]string {
	labels := make(map[string]string, len(a.Attributes)+4)
	maps.Copy(labels, a.Attributes)
	said, err := Account(a.Name, labels)
	if err != nil {
		delete(labels, Generation)
	}
	set := func(label, value string, same bool) {
		if !same {
			labels[label] = value
		}
	}
	set(Home, a.Home, said.Home == a.Home)
	set(Generation, strconv.FormatUint(a.Generation, 10), said.Generation == a.Generation)
	set(Status, string(a.Status), said.Status == a.Status)
	set(Quota, strconv.FormatInt(a.Quota, 10), said.Quota == a.Quota)
	forwards := strings.Join(a.Forwards, ",")
	set(Forward, forwards, strings.Join(said.Forwards, ",") == forwards)
	return labels
}

// ParseGeneration reads the label homegen; the empty word is zero.
func ParseGeneration(s string) (uint64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, Refuse("%s %.20q is not a whole number", Generation, s)
	}
	return n, nil
}

// ParseQuota reads a quota: bytes, or with K, M, G or T behind the number; the
// empty word is zero, no limit.
func ParseQuota(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	digits, shift := s, 0
	switch s[len(s)-1] {
	case 'K', 'k':
		shift = 10
	case 'M', 'm':
		shift = 20
	case 'G', 'g':
		shift = 30
	case 'T', 't':
		shift = 40
	}
	if shift > 0 {
		digits = s[:len(s)-1]
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || n > math.MaxInt64>>shift {
		return 0, Refuse("%s %.20q is not a number of bytes such as 500000, 200M or 5G", Quota, s)
	}
	return int64(n << shift), nil
}
