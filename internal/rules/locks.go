package rules

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/threshold-access/threshold/internal/access"
)

// Locks is the body of the documents of locks, ordered by id. A lock is never left out because of what a
// reader does not know of it: see access.Lock.
type Locks struct {
	Locks []access.Lock `json:"locks"`
}

// lockList is what a document of locks says. There may be ten thousand locks, and each change reaches each
// machine. So a list is read with the one before it at hand, and only the locks that this one has not are
// decoded. It is immutable.
type lockList struct {
	payload []byte // the document; nil: there is none
	locks   []listedLock
}

// listedLock is a lock with its place in the payload.
type listedLock struct {
	*access.Lock
	from, to int
}

// lockChange is how a list differs from the one before it.
type lockChange struct{ gone, came []*access.Lock }

// read reads the payload of a document of locks, which has been verified: the document without the locks, and
// the list, which shares the locks of l that are in it.
func (l lockList) read(
	kind Kind, payload []byte,
) (doc Document, next lockList, change lockChange, err error) {
	at, err := findLocks(payload)
	if err != nil {
		return doc, next, change, fmt.Errorf("rules: %s: %w", kind, err)
	}
	start, end, old := at, at, 0 // old is the first lock of l that was not looked at
	next = lockList{payload: payload, locks: make([]listedLock, 0, len(l.locks)+1)}
	for {
		at = skipSpace(payload, at)
		if len(next.locks) == 0 && at < len(payload) && payload[at] == ']' {
			end = at
			break // the list is empty
		}
		same := l.find(old, payload[at:])
		lock, size := (*access.Lock)(nil), 0
		if same >= 0 {
			change.gone = l.appendLocks(change.gone, old, same)
			lock, size, old = l.locks[same].Lock, len(l.text(same)), same+1
		} else {
			lock = new(access.Lock)
			if size, err = decodeFirst(payload[at:], lock); err != nil {
				return doc, next, change, fmt.Errorf("rules: %s: %w", kind, err)
			}
			change.came = append(change.came, lock)
		}
		next.locks = append(next.locks, listedLock{lock, at, at + size})
		end = skipSpace(payload, at+size)
		if end == len(payload) || payload[end] != ',' {
			break // at the end of the list, or the payload is malformed, which decodeDocument notices
		}
		at = end + 1
	}
	change.gone = l.appendLocks(change.gone, old, len(l.locks))
	// The rest of the document is read as that of any document is. Locks in it are of a second list.
	var rest Locks
	doc, err = decodeDocument(slices.Concat(payload[:start], payload[end:]), kind, &rest)
	if err == nil && len(rest.Locks) > 0 {
		err = fmt.Errorf("rules: %s: it has two lists", kind)
	}
	return doc, next, change, err
}

// text is the lock as it is in the payload.
func (l lockList) text(i int) []byte { return l.payload[l.locks[i].from:l.locks[i].to] }

// appendLocks appends the locks from the one with the index from to the one before to.
func (l lockList) appendLocks(list []*access.Lock, from, to int) []*access.Lock {
	for _, lock := range l.locks[from:to] {
		list = append(list, lock.Lock)
	}
	return list
}

// idBytes is how many bytes of the text of a lock have its id, with which it begins.
const idBytes = len(`{"id":"0123456789ab`)

// find returns the index, at least from, of the lock with whose text b begins; -1 if there is none. It relies
// on the order of the locks by id only to find it: if they are in another order, a lock that is there may not
// be found, and is decoded again.
func (l lockList) find(from int, b []byte) int {
	for i := from; i < len(l.locks); i++ {
		text := l.text(i)
		if bytes.HasPrefix(b, text) {
			return i
		}
		if bytes.Compare(text[:min(idBytes, len(text))], b[:min(idBytes, len(b))]) >= 0 {
			return -1
		}
	}
	return -1
}

// findLocks returns where the list of locks begins in a document, behind its "[".
func findLocks(payload []byte) (int, error) {
	dec := json.NewDecoder(bytes.NewReader(payload))
	for _, key := range []string{"body", "locks"} {
		if err := enterValue(dec, key); err != nil {
			return 0, err
		}
	}
	if token, err := dec.Token(); err != nil || token != json.Delim('[') {
		return 0, fmt.Errorf("it has no list of locks")
	}
	return int(dec.InputOffset()), nil
}

// enterValue reads an object up to the value of the key.
func enterValue(dec *json.Decoder, key string) error {
	if token, err := dec.Token(); err != nil || token != json.Delim('{') {
		return fmt.Errorf("there is no object with %s", key)
	}
	for dec.More() {
		token, err := dec.Token()
		if err != nil || token == key {
			return err
		}
		var skipped json.RawMessage
		if err := dec.Decode(&skipped); err != nil {
			return err
		}
	}
	return fmt.Errorf("it has no %s", key)
}

// decodeFirst decodes the JSON value with which b begins, and returns its length.
func decodeFirst(b []byte, into any) (int, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	err := dec.Decode(into)
	return int(dec.InputOffset()), err
}

// skipSpace returns the place of the first byte from at on that is not white space of JSON.
func skipSpace(b []byte, at int) int {
	for at < len(b) && (b[at] == ' ' || b[at] == '\t' || b[at] == '\n' || b[at] == '\r') {
		at++
	}
	return at
}
