package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/wire"
	"github.com/threshold-access/threshold/raftstore"
)

// Stored is a record as it was read, with its key and revision.
type Stored[T any] struct {
	Key      string // without the prefix of its kind
	Value    T
	Revision uint64         // of its last write; 0: it was never stored. A compare-and-set compares it
	item     raftstore.Item // what was read; requireUnchanged compares with it
}

// Page asks for the records behind the key After, in the order of the keys.
type Page struct {
	After string // "" means from the first record on
	Limit int    // the most records; 0 means 1000, and a larger number than the store's bound means that
}

// Listing is one page of records in the order of their keys.
type Listing[T any] struct {
	Items []Stored[T]
	Next  string // the After of the next page; "" at the end
	// Unreadable are the keys of records that this release cannot decode. They are listed here instead of
	// failing the whole list.
	Unreadable []string
	revision   raftstore.Revision // of the whole store, when the page was read
}

// table is one kind of record: T as JSON under prefix. These are the prefixes with the rest of their keys:
//
//	attached/node/NODE/PROXY    Attachment, by node; ends with the proxy's lease
//	attached/proxy/PROXY/NODE   Attachment, by proxy; ends with the proxy's lease
//	attached/lease/PROXY        the lease itself
//	attempts/HASH               a login attempt, sealed, by the hash of its id
//	authorities/EPOCH.INDEX     Authorities
//	cluster/self                Cluster
//	connectors/NAME             Connector, with its secret sealed
//	connector-issuers/NAME      the issuer to which the name belongs for good
//	factors/CONNECTOR/SUBJECT   UserFactors, with their secrets sealed
//	keyring/self                the keyring's document
//	last-issued/CONNECTOR       when certificates were issued last to users of the connector
//	last-seen/NODE              when the node was last attached
//	lock/ID                     access.Lock
//	logins/HASH                 PendingLogin, by the hash of its one-time code
//	machine/ID                  Machine
//	name/NAME                   which machine has the name
//	public-name/NAME            which proxies have the public name
//	replica/REPLICA             Replica
//	role/NAME                   access.Role
//	root-change/self            RootChange, while it waits for the root
//	rules-term/self             the last term in which heads were signed
//	rules-version/KIND          written with every change of the kind of rules
//	settings/self               access.Settings
//	spools/MACHINE              up to which numbers the machine's events are stored
//	token/NAME                  Token, without its secret; ends with a lease
//	token-hash/HASH             the name of the token; ends with the same lease
//	users/CONNECTOR/SUBJECT     User
type table[T any] struct {
	prefix string // ends in "/"
	noun   string // what an error message calls the record, such as "role"
	remedy string // of the error when there is no such record, such as "run: tsh get roles"
}

// recordVersion is the version that this release writes into every record. It refuses records of a later
// version instead of guessing what they mean.
const recordVersion = 1

// envelope is the stored form of a record. T only ever gains fields. One that an old release must not ignore
// is named in Critical by whoever writes it; any other change needs a new recordVersion. An old release that
// changes a record keeps the fields that it does not know, and the list: see encodeOver.
type envelope[T any] struct {
	V        int           `json:"v"`                  // recordVersion of the release that wrote the record
	Critical wire.Critical `json:"critical,omitempty"` // fields of D that a reader must know
	D        T             `json:"d"`                  // the record
}

func encode[T any](v T) ([]byte, error) {
	b, err := json.Marshal(envelope[T]{V: recordVersion, D: v})
	if err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	return b, nil
}

// encodeOver is encode for a record that takes the place of old, in its stored form. The result has what old
// has and this release does not know: fields of the record, beside its own, and the critical ones.
func encodeOver[T any](old []byte, v T) ([]byte, error) {
	b, err := encode(v)
	known := wire.Fields(v)
	if err != nil || len(old) == 0 || len(known) == 0 { // no fields: whoever wrote v has kept what was in old
		return b, err
	}
	var before, after struct {
		V        int                        `json:"v"`
		Critical wire.Critical              `json:"critical,omitempty"`
		D        map[string]json.RawMessage `json:"d"`
	}
	if json.Unmarshal(old, &before) != nil || json.Unmarshal(b, &after) != nil || after.D == nil {
		return b, nil
	}
	kept := len(before.Critical) > 0
	for name, value := range before.D {
		if !slices.Contains(known, name) {
			after.D[name], kept = value, true
		}
	}
	if !kept {
		return b, nil
	}
	after.Critical = before.Critical
	return json.Marshal(after)
}

// decode returns the record in an envelope. It is an error if this release does not know the version.
func decode[T any](b []byte) (T, error) {
	var stored envelope[T]
	err := json.Unmarshal(b, &stored)
	hasVersion := stored.V != 0
	if hasVersion && (stored.V < 1 || stored.V > recordVersion) {
		// An unknown version is reported even if Unmarshal failed, because it explains that error.
		err = fmt.Errorf("it is of version %d, this release reads 1 to %d", stored.V, recordVersion)
	}
	if err == nil && !hasVersion {
		err = errors.New("it has no version")
	}
	if err == nil && len(stored.Critical) > 0 {
		err = wire.CheckCritical(stored.Critical, wire.Fields(stored.D)...)
	}
	if err != nil {
		return stored.D, fmt.Errorf("decode record: %w", err)
	}
	return stored.D, nil
}

// get returns the record, or fault NotFound.
func (t table[T]) get(ctx context.Context, r *Reader, key string) (Stored[T], error) {
	item, err := r.store.Get(ctx, t.prefix+key)
	if fault.Is(err, fault.NotFound) {
		return Stored[T]{}, recordUnknown.New("state.get", fault.Args{
			"noun": t.noun,
			"key":  key,
			"hint": t.remedy,
		})
	}
	if err != nil {
		return Stored[T]{}, err
	}
	return t.decodeItem(item)
}

// getOrNew is get, but without fault NotFound: when there is no record it returns an empty one with Revision
// 0, which replaceOrCreate then creates.
func (t table[T]) getOrNew(ctx context.Context, r *Reader, key string) (Stored[T], error) {
	rec, err := t.get(ctx, r, key)
	if fault.Is(err, fault.NotFound) {
		return Stored[T]{Key: key}, nil
	}
	return rec, err
}

// decodeItem decodes an item that was read from the store. A record that this release cannot read is fault
// Internal.
func (t table[T]) decodeItem(item raftstore.Item) (Stored[T], error) {
	out := Stored[T]{Key: strings.TrimPrefix(item.Key, t.prefix), Revision: uint64(item.Modified), item: item}
	var err error
	if out.Value, err = decode[T](item.Value); err != nil {
		return Stored[T]{}, recordUnreadable.Wrap(err, "state.get", fault.Args{
			"noun": t.noun,
			"key":  out.Key,
		})
	}
	return out, nil
}

// list returns one page of the kind.
func (t table[T]) list(ctx context.Context, r *Reader, p Page) (Listing[T], error) {
	return t.listUnder(ctx, r, "", p)
}

// listUnder returns one page of the records whose key begins with under. A record that this release cannot
// decode is not an error: its key is in Unreadable.
func (t table[T]) listUnder(ctx context.Context, r *Reader, under string, p Page) (Listing[T], error) {
	after := ""
	if p.After != "" {
		after = t.prefix + p.After
	}
	got, err := r.store.List(ctx, t.prefix+under, raftstore.Page{After: after, Limit: p.Limit})
	if err != nil {
		return Listing[T]{}, err
	}
	out := Listing[T]{Next: strings.TrimPrefix(got.Next, t.prefix), revision: got.Revision}
	for _, item := range got.Items {
		record, err := t.decodeItem(item)
		if err != nil {
			out.Unreadable = append(out.Unreadable, strings.TrimPrefix(item.Key, t.prefix))
			continue
		}
		out.Items = append(out.Items, record)
	}
	return out, nil
}

// all returns every record of the kind, in the order of the keys. Records that this release cannot decode are
// left out. It reads page by page, so the records may be of different revisions of the store.
func (t table[T]) all(ctx context.Context, r *Reader) ([]Stored[T], error) {
	list, _, err := t.readAll(ctx, r)
	return list, err
}

// readAll is all, and returns the keys of the records that this release cannot decode.
func (t table[T]) readAll(ctx context.Context, r *Reader) (list []Stored[T], unreadable []string, err error) {
	for page := (Page{}); ; {
		got, err := t.list(ctx, r, page)
		if err != nil {
			return nil, nil, err
		}
		list, unreadable = append(list, got.Items...), append(unreadable, got.Unreadable...)
		if got.Next == "" {
			return list, unreadable, nil
		}
		page.After = got.Next
	}
}

// values returns the records alone, without their keys and revisions.
func values[T any](list []Stored[T]) []T {
	out := make([]T, len(list))
	for i, v := range list {
		out[i] = v.Value
	}
	return out
}
