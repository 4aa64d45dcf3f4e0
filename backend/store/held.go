package store

import (
	"sync"

	"switchyard/backend"
	"switchyard/backend/effect"
	"switchyard/backend/store/segment"
)

// held are the bodies of records that are not applied, and of those that came
// from the other node ahead of their records. Their segments are pinned.
type held struct {
	mu     sync.Mutex
	places map[heldBody]segment.Place
	early  map[heldBody]bool // no record of the log has it yet
}

type heldBody struct {
	shard uint8
	guid  backend.GUID
}

func (h *held) init() {
	h.places, h.early = make(map[heldBody]segment.Place), make(map[heldBody]bool)
}

// put takes a body that is pinned, early when its record is to come. It reports
// whether it is held already: then the caller unpins.
func (h *held) put(shard uint8, guid backend.GUID, p segment.Place, early bool) (already bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := heldBody{shard, guid}
	if _, already = h.places[key]; !already {
		h.places[key] = p
		if early {
			h.early[key] = true
		}
	}
	return already
}

// filed notes that records came for bodies.
func (h *held) filed(records []*effect.Record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range records {
		for _, guid := range bodiesOf(r) {
			delete(h.early, heldBody{r.Shard, guid})
		}
	}
}

// ForgetEarly lets go of a shard's bodies that came ahead of records which did not
// come: they will not, once the shard has another writer.
func (s *Store) ForgetEarly(shard uint8) {
	s.held.mu.Lock()
	defer s.held.mu.Unlock()
	for key := range s.held.early {
		if key.shard == shard {
			s.segments.Unpin(s.held.places[key])
			delete(s.held.places, key)
			delete(s.held.early, key)
		}
	}
}

func (h *held) get(shard uint8, guid backend.GUID) (p segment.Place, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, ok = h.places[heldBody{shard, guid}]
	return p, ok
}

// letGo unpins the bodies of records that are applied, or have gone away, but for
// those that other records need.
func (s *Store) letGo(records, others []*effect.Record) {
	if len(records) == 0 {
		return
	}
	needed := make(map[backend.GUID]bool)
	for _, r := range others {
		for _, guid := range bodiesOf(r) {
			needed[guid] = true
		}
	}
	s.held.mu.Lock()
	defer s.held.mu.Unlock()
	for _, r := range records {
		for _, guid := range bodiesOf(r) {
			key := heldBody{r.Shard, guid}
			if p, ok := s.held.places[key]; ok && !needed[guid] {
				delete(s.held.places, key)
				delete(s.held.early, key)
				s.segments.Unpin(p)
			}
		}
	}
}

// bodiesOf returns the bodies that a record refers to. One that a message had
// before is among them.
func bodiesOf(r *effect.Record) (guids []backend.GUID) {
	for _, e := range r.Effects {
		switch e := e.(type) {
		case effect.MessageAdded:
			guids = append(guids, e.Message.GUID)
		case effect.Conformed:
			for i := range e.Put {
				guids = append(guids, e.Put[i].GUID)
			}
		case effect.QueueSet:
			if !e.Body.IsZero() {
				guids = append(guids, e.Body)
			}
		}
	}
	return guids
}
