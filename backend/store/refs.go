package store

import (
	"fmt"

	"switchyard/backend"
	"switchyard/backend/store/rows"
	"switchyard/backend/store/segment"
)

// body returns a body's row as this change leaves it, to be changed.
func (t *tx) body(guid backend.GUID) (*rows.Body, error) {
	if row, ok := t.bodies[guid]; ok {
		return row, nil
	}
	row := &rows.Body{}
	if p, ok := t.places[guid]; ok {
		row.Place = p
	} else if ok, err := rows.Get(t.u.db, rows.KeyBody(t.row.ID, guid), row.Read); err != nil {
		return nil, err
	} else if !ok || row.Refs == 0 && t.u.s.mirrored() {
		if err := t.arrivedBody(guid, row, ok); err != nil {
			return nil, err
		}
	}
	if t.bodies == nil {
		t.bodies = make(map[backend.GUID]*rows.Body)
	}
	t.bodies[guid] = row
	return row, nil
}

// arrivedBody looks for a body that came from the other node. One that was
// written here for a record that went away may still have a row: known.
func (t *tx) arrivedBody(guid backend.GUID, row *rows.Body, known bool) error {
	ok, err := rows.Get(t.u.db, rows.KeyArrived(t.u.shard, guid), row.Read)
	switch {
	case err != nil:
		return err
	case ok:
		t.arrived = append(t.arrived, guid)
	case !known:
		return fmt.Errorf("body %s is nowhere", guid)
	}
	return nil
}

func (t *tx) ref(guid backend.GUID) error {
	row, err := t.body(guid)
	if err != nil {
		return err
	}
	if row.Refs++; row.Refs == 1 {
		t.alive(row.Place, 1)
	}
	return nil
}

func (t *tx) unref(guid backend.GUID) error {
	row, err := t.body(guid)
	if err != nil {
		return err
	}
	if row.Refs == 0 {
		return fmt.Errorf("body %s has no reference to take away", guid)
	}
	if row.Refs--; row.Refs == 0 {
		t.alive(row.Place, -1)
	}
	return nil
}

// alive counts a body of a segment.
func (t *tx) alive(p segment.Place, sign int64) {
	if t.live == nil {
		t.live = make(map[uint32]rows.Live)
	}
	l := t.live[p.Segment]
	l.Bodies += sign
	l.Bytes += sign * p.Length
	t.live[p.Segment] = l
}
