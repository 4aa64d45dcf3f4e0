package search

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"switchyard/backend/imap/syntax"
)

// criterion is a search key made ready: what it costs, so that cheap ones are
// asked first, and the question.
type criterion struct {
	cost int
	test func(*candidate) (bool, error)
}

// The costs: metadata is in memory, a structure is one record, a header and a
// body are read and decoded.
const (
	inMemory = iota
	inIndex
	inHeader
	inBody
)

// plain makes a criterion that looks at metadata only.
func plain(test func(*candidate) bool) criterion {
	return criterion{inMemory, func(c *candidate) (bool, error) { return test(c), nil }}
}

// compile makes a key ready.
func (m *Mailbox) compile(k syntax.Key) criterion {
	switch k.Op {
	case syntax.And:
		return m.all(k.Keys)
	case syntax.Or:
		a, b := m.compile(k.Keys[0]), m.compile(k.Keys[1])
		if b.cost < a.cost {
			a, b = b, a
		}
		return criterion{b.cost, func(c *candidate) (bool, error) {
			if hit, err := a.test(c); hit || err != nil {
				return hit, err
			}
			return b.test(c)
		}}
	case syntax.Not:
		a := m.compile(k.Keys[0])
		return criterion{a.cost, func(c *candidate) (bool, error) {
			hit, err := a.test(c)
			return !hit, err
		}}
	case syntax.InSet, syntax.InUIDs:
		return m.compileSet(k)
	case syntax.InHeader, syntax.InBody, syntax.InText:
		return m.compileText(k)
	case syntax.SentBefore, syntax.SentOn, syntax.SentSince:
		return compileSent(k)
	default:
		return compilePlain(k)
	}
}

// all is true when every key is.
func (m *Mailbox) all(keys []syntax.Key) criterion {
	var list []criterion
	for _, k := range keys {
		list = append(list, m.compile(k))
	}
	slices.SortStableFunc(list, func(a, b criterion) int { return cmp.Compare(a.cost, b.cost) })
	return criterion{list[len(list)-1].cost, func(c *candidate) (bool, error) {
		for _, one := range list {
			if hit, err := one.test(c); !hit || err != nil {
				return false, err
			}
		}
		return true, nil
	}}
}

// compileSet matches message numbers or UIDs. Numbers that are not there match
// nothing.
func (m *Mailbox) compileSet(k syntax.Key) criterion {
	if k.Set.Saved {
		return plain(func(c *candidate) bool {
			_, found := slices.BinarySearch(m.Saved, c.UID)
			return found
		})
	}
	if k.Op == syntax.InUIDs {
		ranges := k.Set.Resolve(m.highestUID())
		return plain(func(c *candidate) bool { return syntax.Contains(ranges, uint32(c.UID)) })
	}
	ranges := k.Set.Resolve(uint32(m.Messages.Len()))
	return plain(func(c *candidate) bool { return syntax.Contains(ranges, uint32(c.position+1)) })
}

// day is a moment's date, in the zone it was written in, as midnight UTC: how
// dates in searches are read.
func day(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
}

// compilePlain makes the keys that look at metadata only.
func compilePlain(k syntax.Key) criterion {
	now := time.Now()
	within := time.Duration(min(k.Number, 1<<33)) * time.Second
	switch k.Op {
	case syntax.HasFlag:
		return plain(func(c *candidate) bool { return c.hasFlag(k.Text) })
	case syntax.IsRecent:
		return plain(func(*candidate) bool { return false })
	case syntax.Larger:
		return plain(func(c *candidate) bool { return c.Size > k.Number })
	case syntax.Smaller:
		return plain(func(c *candidate) bool { return c.Size < k.Number })
	case syntax.Before:
		return plain(func(c *candidate) bool { return day(c.InternalDate).Before(k.Date) })
	case syntax.On:
		return plain(func(c *candidate) bool { return day(c.InternalDate).Equal(k.Date) })
	case syntax.Since:
		return plain(func(c *candidate) bool { return !day(c.InternalDate).Before(k.Date) })
	case syntax.SavedBefore:
		return plain(func(c *candidate) bool { return day(c.SaveDate).Before(k.Date) })
	case syntax.SavedOn:
		return plain(func(c *candidate) bool { return day(c.SaveDate).Equal(k.Date) })
	case syntax.SavedSince:
		return plain(func(c *candidate) bool { return !day(c.SaveDate).Before(k.Date) })
	case syntax.Younger:
		return plain(func(c *candidate) bool { return !c.InternalDate.Before(now.Add(-within)) })
	case syntax.Older:
		return plain(func(c *candidate) bool { return !c.InternalDate.After(now.Add(-within)) })
	case syntax.ModSeq:
		return plain(func(c *candidate) bool { return int64(c.ModSeq) >= k.Number })
	case syntax.EmailID:
		return plain(func(c *candidate) bool { return strings.EqualFold(c.GUID.String(), k.Text) })
	case syntax.ThreadID: // there are no threads
		return plain(func(*candidate) bool { return false })
	default: // ALL, SAVEDATESUPPORTED
		return plain(func(*candidate) bool { return true })
	}
}
