package store

import (
	"time"

	"switchyard/backend"
	"switchyard/backend/effect"
	"switchyard/backend/store/rows"
)

// keepDeliveries is how long a delivery id is remembered.
const keepDeliveries = 7 * 24 * time.Hour

func (t *tx) rememberDelivery(e effect.Delivered) {
	row := rows.Delivery{Time: t.now, Appended: e.Appended}
	if t.seen == nil {
		t.seen = make(map[[32]byte]rows.Delivery)
	}
	t.seen[e.ID] = row
	t.put(rows.KeyDelivery(t.row.ID, e.ID), row.Append(nil))
	t.put(rows.KeyExpiry(t.now.Time().Add(keepDeliveries).Unix(), t.row.ID, e.ID), nil)
}

// delivery returns the remembered answer to a delivery id.
func (t *tx) delivery(id [32]byte) (rows.Delivery, bool, error) {
	if row, ok := t.seen[id]; ok {
		return row, true, nil
	}
	return t.u.delivery(t.row.ID, id)
}

// delivery returns what the database remembers of a delivery id.
func (u *user) delivery(user backend.GUID, id [32]byte) (row rows.Delivery, ok bool, err error) {
	ok, err = rows.Get(u.db, rows.KeyDelivery(user, id), row.Read)
	if ok && u.s.opts.Clock().Sub(row.Time.Time()) > keepDeliveries {
		return rows.Delivery{}, false, err
	}
	return row, ok, err
}
