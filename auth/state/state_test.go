package state

import (
	"reflect"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/raftstore"
	"github.com/threshold-access/threshold/raftstore/raftstoretest"
)

type testRecord struct {
	Name string `json:"name"`
}

var testRecords = table[testRecord]{prefix: "test/", noun: "test record", remedy: "run: tsh get tests"}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T) *State {
	t.Helper()
	return New(raftstoretest.Open(t))
}

// putTestRecord stores one record and returns it as read.
func putTestRecord(t *testing.T, s *State, key, name string) Stored[testRecord] {
	t.Helper()
	var c change
	testRecords.create(&c, key, testRecord{Name: name})
	if _, err := s.writer.commit(t.Context(), &c); err != nil {
		t.Fatal(err)
	}
	got, err := testRecords.get(t.Context(), s.Reader, key)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// A Reader must not reach a method of the store that writes.
func TestReaderHoldsNoWriter(t *testing.T) {
	t.Parallel()
	reads := map[string]bool{
		"Get": true, "List": true, "Read": true, "Watch": true, "Linearize": true, "Empty": true,
	}
	store := reflect.TypeFor[readStore]()
	for i := range store.NumMethod() {
		if name := store.Method(i).Name; !reads[name] {
			t.Errorf("got method %s on the store of a Reader, want only methods that read", name)
		}
	}
}

func TestRecordsAreReadAsWritten(t *testing.T) {
	t.Parallel()
	s := open(t)
	got := putTestRecord(t, s, "a", "apple")
	if got.Key != "a" || got.Value.Name != "apple" || got.Revision == 0 {
		t.Errorf("got %+v, want key a, apple and a revision", got)
	}
}

func TestCreateRefusesAnExistingRecord(t *testing.T) {
	t.Parallel()
	s := open(t)
	putTestRecord(t, s, "a", "apple")
	var c change
	testRecords.create(&c, "a", testRecord{Name: "another"})
	if _, err := s.writer.commit(t.Context(), &c); !fault.Is(err, fault.Conflict) || fault.Remedy(err) == "" {
		t.Errorf("got %v, want a conflict with a remedy", err)
	}
}

func TestReplaceRefusesAChangedRecord(t *testing.T) {
	t.Parallel()
	s := open(t)
	old := putTestRecord(t, s, "a", "apple")
	for i, want := range []fault.Kind{"", fault.Conflict} {
		var c change
		testRecords.replace(&c, old, testRecord{Name: "pear"})
		c.appendEvents(audit.New(time.Now(), identity.Identity{}, audit.RecoveryUse{}))
		if _, err := s.writer.commit(t.Context(), &c); fault.KindOf(err) != want {
			t.Errorf("replace %d: got %v, want kind %q", i+1, err, want)
		}
	}
	events, err := s.ReadEvents(t.Context(), 1, 10)
	if err != nil || len(events) != 1 {
		t.Errorf("got %d events and %v, want the one of the change that happened", len(events), err)
	}
}

func TestMissingRecordHasARemedy(t *testing.T) {
	t.Parallel()
	s := open(t)
	if _, err := testRecords.get(t.Context(), s.Reader, "z"); !fault.Is(err, fault.NotFound) ||
		fault.Remedy(err) != "run: tsh get tests" {
		t.Errorf("got %v with remedy %q, want not found with the kind's remedy", err, fault.Remedy(err))
	}
}

func TestUnreadableRecordsDoNotFailAList(t *testing.T) {
	t.Parallel()
	s := open(t)
	putTestRecord(t, s, "a", "apple")
	putTestRecord(t, s, "c", "cherry")
	future := raftstore.Put("test/b", []byte(`{"v":2,"d":{}}`))
	_, err := s.writer.store.Commit(t.Context(), raftstore.Txn{Then: []raftstore.Write{future}})
	must(t, err)
	got, err := testRecords.list(t.Context(), s.Reader, Page{})
	if err != nil || len(got.Items) != 2 || len(got.Unreadable) != 1 || got.Unreadable[0] != "b" {
		t.Errorf("got %+v and %v, want a and c, and b as unreadable", got, err)
	}
	if _, err := testRecords.get(t.Context(), s.Reader, "b"); !fault.Is(err, fault.Internal) {
		t.Errorf("got %v for a record of a later version, want it refused", err)
	}
}

func TestPagesFollowEachOther(t *testing.T) {
	t.Parallel()
	s := open(t)
	for _, k := range []string{"a", "b", "c"} {
		putTestRecord(t, s, k, k)
	}
	first, err := testRecords.list(t.Context(), s.Reader, Page{Limit: 2})
	if err != nil || len(first.Items) != 2 || first.Next != "b" {
		t.Fatalf("got %+v and %v, want a, b and next b", first, err)
	}
	rest, err := testRecords.list(t.Context(), s.Reader, Page{After: first.Next})
	if err != nil || len(rest.Items) != 1 || rest.Items[0].Key != "c" || rest.Next != "" {
		t.Errorf("got %+v and %v, want c alone", rest, err)
	}
}

// byNow is somebody who takes access away now.
func byNow() By { return By{Name: "root@example.com", Time: time.Now()} }
