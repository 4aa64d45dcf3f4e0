package store

import (
	"fmt"

	"switchyard/backend"
	"switchyard/backend/store/segment"
)

// body returns a body's row as this change leaves it, to be changed.
func (t *tx) body(guid backend.GUID) (*bodyRow, error) {
	if row, ok := t.bodies[guid]; ok {
		return row, nil
	}
	row := &bodyRow{}
	if p, ok := t.places[guid]; ok {
		row.Place = p
	} else if ok, err := get(t.u.db, keyBody(t.row.id, guid), row.read); err != nil {
		return nil, err
	} else if !ok {
		return nil, fmt.Errorf("body %s is nowhere", guid)
	}
	if t.bodies == nil {
		t.bodies = make(map[backend.GUID]*bodyRow)
	}
	t.bodies[guid] = row
	return row, nil
}

func (t *tx) ref(guid backend.GUID) error {
	row, err := t.body(guid)
	if err != nil {
		return err
	}
	if row.refs++; row.refs == 1 {
		t.alive(row.Place, 1)
	}
	return nil
}

func (t *tx) unref(guid backend.GUID) error {
	row, err := t.body(guid)
	if err != nil {
		return err
	}
	if row.refs == 0 {
		return fmt.Errorf("body %s has no reference to take away", guid)
	}
	if row.refs--; row.refs == 0 {
		t.alive(row.Place, -1)
	}
	return nil
}

// alive counts a body of a segment.
func (t *tx) alive(p segment.Place, sign int64) {
	if t.live == nil {
		t.live = make(map[uint32]liveRow)
	}
	l := t.live[p.Segment]
	l.bodies += sign
	l.bytes += sign * p.Length
	t.live[p.Segment] = l
}
