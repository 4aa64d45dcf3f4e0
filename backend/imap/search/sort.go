package search

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"switchyard/backend"
	"switchyard/backend/imap/syntax"
	"switchyard/internal/message"
)

// column holds the sort values of all messages for one criterion: numbers or
// strings.
type column struct {
	numbers []int64
	texts   []string
	reverse bool
}

func (c *column) compare(a, b int) int {
	var r int
	if c.texts != nil {
		r = strings.Compare(c.texts[a], c.texts[b])
	} else {
		r = cmp.Compare(c.numbers[a], c.numbers[b])
	}
	if c.reverse {
		return -r
	}
	return r
}

// Sort returns positions in the order of the criteria (RFC 5256, RFC 5957).
// Messages that are equal keep the order of the mailbox. Positions must
// ascend. A message that is gone is left out.
func (m *Mailbox) Sort(ctx context.Context, positions []int, by []syntax.SortKey) ([]int, error) {
	columns := make([]column, len(by))
	for k, key := range by {
		columns[k].reverse = key.Reverse
		if key.Text() {
			columns[k].texts = make([]string, 0, len(positions))
		} else {
			columns[k].numbers = make([]int64, 0, len(positions))
		}
	}
	var kept []int
	for _, i := range positions {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		c := candidate{Message: m.Messages.At(i), box: m, ctx: ctx, position: i}
		err := c.sortValues(by, columns, len(kept))
		if errors.Is(err, backend.ErrNoMessage) {
			m.Gone = true
			continue
		}
		if err != nil {
			return nil, err
		}
		kept = append(kept, i)
	}
	order := make([]int, len(kept))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		for k := range columns {
			if r := columns[k].compare(a, b); r != 0 {
				return r
			}
		}
		return cmp.Compare(a, b)
	})
	for i, k := range order {
		order[i] = kept[k]
	}
	return order, nil
}

// sortValues puts a message's values at the end of the columns, which have n
// each: values of a message that failed half way are overwritten.
func (c *candidate) sortValues(by []syntax.SortKey, columns []column, n int) error {
	for k, key := range by {
		col := &columns[k]
		if key.Text() {
			text, err := c.sortText(key.Op)
			if err != nil {
				return err
			}
			col.texts = append(col.texts[:n], text)
			continue
		}
		number, err := c.sortNumber(key.Op)
		if err != nil {
			return err
		}
		col.numbers = append(col.numbers[:n], number)
	}
	return nil
}

func (c *candidate) sortNumber(op syntax.SortOp) (int64, error) {
	switch op {
	case syntax.SortArrival:
		return c.InternalDate.UnixNano(), nil
	case syntax.SortSize:
		return c.Size, nil
	default:
		return c.sent()
	}
}

// sent is the sent date in Unix seconds, the internal date when there is none
// (RFC 5256 §2.2).
func (c *candidate) sent() (int64, error) {
	f, err := c.box.facts(c)
	if err != nil {
		return 0, err
	}
	if f.dated {
		return f.sent, nil
	}
	return c.InternalDate.Unix(), nil
}

// sortText returns a string in the form that it is compared in.
func (c *candidate) sortText(op syntax.SortOp) (string, error) {
	if op == syntax.SortSubject {
		if f, err := c.box.facts(c); err != nil || !f.long {
			return f.baseOf(), err
		}
	}
	e, err := c.envelope()
	if err != nil {
		return "", err
	}
	switch op {
	case syntax.SortSubject:
		base, _ := message.BaseSubject(e.Subject)
		return message.Fold(base), nil
	case syntax.SortFrom:
		return mailboxText(e.From), nil
	case syntax.SortTo:
		return mailboxText(e.To), nil
	case syntax.SortCc:
		return mailboxText(e.Cc), nil
	case syntax.SortDisplayFrom:
		return displayText(e.From), nil
	default:
		return displayText(e.To), nil
	}
}

// baseOf is the base subject; f may be nil.
func (f *facts) baseOf() string {
	if f == nil {
		return ""
	}
	return f.base
}

// mailboxText is the addr-mailbox of the first address.
func mailboxText(list []message.Address) string {
	if len(list) == 0 {
		return ""
	}
	return message.Fold(list[0].Mailbox)
}

// displayText is the DISPLAY sort value of the first address (RFC 5957 §3).
func displayText(list []message.Address) string {
	if len(list) == 0 {
		return ""
	}
	a := list[0]
	if name := message.DecodeHeader(a.Name); name != "" {
		return message.Fold(name)
	}
	if a.Group || a.Host == "" {
		return message.Fold(a.Mailbox)
	}
	return message.Fold(a.Mailbox + "@" + a.Host)
}
