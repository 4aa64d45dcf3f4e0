package store

import (
	"time"

	"switchyard/backend"
	"switchyard/backend/effect"
)

// keepDeliveries is how long a delivery id is remembered.
const keepDeliveries = 7 * 24 * time.Hour

func (t *tx) rememberDelivery(e effect.Delivered) {
	row := deliveryRow{t.now, e.Appended}
	if t.seen == nil {
		t.seen = make(map[[32]byte]deliveryRow)
	}
	t.seen[e.ID] = row
	t.put(keyDelivery(t.row.id, e.ID), row.append(nil))
	t.put(keyExpiry(t.now.Time().Add(keepDeliveries).Unix(), t.row.id, e.ID), nil)
}

// delivery returns the remembered answer to a delivery id.
func (t *tx) delivery(id [32]byte) (deliveryRow, bool, error) {
	if row, ok := t.seen[id]; ok {
		return row, true, nil
	}
	return t.u.delivery(t.row.id, id)
}

// delivery returns what the database remembers of a delivery id.
func (u *user) delivery(user backend.GUID, id [32]byte) (row deliveryRow, ok bool, err error) {
	ok, err = get(u.db, keyDelivery(user, id), row.read)
	if ok && u.s.opts.Clock().Sub(row.time.Time()) > keepDeliveries {
		return deliveryRow{}, false, err
	}
	return row, ok, err
}
