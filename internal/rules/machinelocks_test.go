package rules_test

import (
	"bytes"
	"crypto"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
)

// machine is the id of a machine that tests lock.
const machine = identity.MachineID("0123456789abcdef0123456789abcdef")

// machineLock denies a machine until end; zero: for ever.
func machineLock(id identity.MachineID, end time.Time) access.Lock {
	lock := access.NewLock(access.Facts{Machine: id}, access.Effect{Kind: access.Deny})
	lock.End = end
	return lock
}

// machineLocks signs a document of machine locks by the first rules key.
func (c *cluster) machineLocks(r rules.Revision, list ...access.Lock) rules.Signed {
	c.t.Helper()
	return c.document(c.signers[0], rules.MachineLocksKind, r, rules.Locks{Locks: list})
}

// userAuthorities are the authorities as a user has them: from a chain that ends with the rules keys of the
// generations.
func (c *cluster) userAuthorities(generations ...int) rules.ParsedAuthorities {
	c.t.Helper()
	chain := []rules.Signed{c.link(c.rootKey, rules.Revision{Epoch: c.epoch, Index: 1}, generations...)}
	_, authorities, err := rules.OpenAuthorities(c.pin(), chain)
	if err != nil {
		c.t.Fatal(err)
	}
	return authorities
}

// A user who has the chain of authorities knows by a signed document which machines are locked, and until
// when.
func TestMachineLocksDeny(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterName)
	var none rules.MachineLocks
	_, denied := none.Denied(machine, noon)
	if denied || !none.Empty() || none.Revision() != (rules.Revision{}) {
		t.Error("the zero value denies, want nothing denied")
	}
	forEver := identity.MachineID(strings.Repeat("f", 32))
	list := []access.Lock{machineLock(machine, noon.Add(time.Hour)), machineLock(forEver, time.Time{})}
	doc := c.machineLocks(rev(5), list...)
	locks, err := none.Follow(clusterName, c.userAuthorities(0), doc)
	kept := bytes.Equal(locks.Signed().Payload, doc.Payload)
	if err != nil || locks.Empty() || locks.Revision() != rev(5) || !kept {
		t.Fatalf("got %+v, %v, want the locks of revision 5", locks, err)
	}
	for _, tt := range []struct {
		id     identity.MachineID
		now    time.Time
		denied bool
	}{
		{machine, noon, true},
		{machine, noon.Add(-time.Hour), true}, // a clock that is an hour off
		{machine, noon.Add(time.Hour), false}, // the lock has ended
		{forEver, noon.Add(9000 * time.Hour), true},
		{identity.MachineID(strings.Repeat("a", 32)), noon, false},
	} {
		if _, denied := locks.Denied(tt.id, tt.now); denied != tt.denied {
			t.Errorf("%s at %s: got denied %v, want %v", tt.id, tt.now, denied, tt.denied)
		}
	}
	removed, err := locks.Follow(clusterName, c.userAuthorities(0), c.machineLocks(rev(6)))
	if _, denied := removed.Denied(machine, noon); err != nil || denied || !removed.Empty() {
		t.Errorf("got denied %v (%v) after the lock was removed, want allowed", denied, err)
	}
	again, err := locks.Follow(clusterName, c.userAuthorities(0), doc)
	if _, denied := again.Denied(machine, noon); err != nil || !denied {
		t.Errorf("got denied %v (%v) by the same document again, want the locks as they were", denied, err)
	}
}

// Whoever passes locks on can neither make some up nor bring old ones back. What was held stays held.
func TestMachineLocksThatAreNotUsed(t *testing.T) {
	t.Parallel()
	c, other := newCluster(t, clusterName), newCluster(t, "other.example.com")
	sameName := newCluster(t, clusterName)
	authorities := c.userAuthorities(0)
	first := c.machineLocks(rev(5), machineLock(machine, time.Time{}))
	held, err := rules.MachineLocks{}.Follow(clusterName, authorities, first)
	if err != nil {
		t.Fatal(err)
	}
	forged := c.machineLocks(rev(9), machineLock(machine, time.Time{}))
	forged.Payload = bytes.Replace(forged.Payload, []byte(machine), []byte(strings.Repeat("e", 32)), 1)
	spliced := c.machineLocks(rev(9))
	spliced.Sig = held.Signed().Sig
	tooLarge := rules.Signed{Payload: make([]byte, rules.MaxDocumentBytes+1), Sig: forged.Sig}
	anotherCluster := *c
	anotherCluster.name = "other.example.com" // signed by a key of this one
	newerVersion := c.machineLocks(rev(9))
	newerVersion.Payload = bytes.Replace(newerVersion.Payload, []byte(`"v":1`), []byte(`"v":2`), 1)
	signedAs := func(key crypto.Signer, kind rules.Kind) rules.Signed {
		return c.document(key, kind, rev(9), rules.Locks{})
	}
	for name, doc := range map[string]rules.Signed{
		"changed after it was signed":         forged,
		"empty, with another one's signature": spliced,
		"older":                               c.machineLocks(rev(4)),
		"of the same revision, but another":   c.machineLocks(rev(5)),
		"of a lower epoch":                    c.machineLocks(rules.Revision{Epoch: 0, Index: 99}),
		"of another cluster":                  other.machineLocks(rev(9)),
		"of a cluster with the same name":     sameName.machineLocks(rev(9)),
		"that says another cluster":           anotherCluster.machineLocks(rev(9)),
		"too large":                           tooLarge,
		"nothing":                             {},
		"of a newer version, forged":          newerVersion,
		"signed by the root":                  signedAs(c.rootKey, rules.MachineLocksKind),
		"signed by a key that is not trusted": signedAs(c.signers[1], rules.MachineLocksKind),
		"user locks":                          signedAs(c.signers[0], rules.UserLocksKind),
		"roles":                               c.roles(c.signers[0], rev(9), "ops"),
		"a head":                              c.head(c.signers[0], noon, nil),
	} {
		got, err := held.Follow(clusterName, authorities, doc)
		if _, denied := got.Denied(machine, noon); err == nil || !denied || got.Revision() != rev(5) {
			t.Errorf("%s: got revision %s (%v), want it refused, the locks kept", name, got.Revision(), err)
		}
	}
}

// A document with a critical field that this program does not know is refused, and the error says what to do.
func TestMachineLocksOfANewerRelease(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterName)
	newer, err := rules.SignDocument(c.signers[0], rules.Document{
		Kind: rules.MachineLocksKind, Cluster: clusterName, Revision: rev(7), Time: noon,
		Critical: []string{"body.locks.later"}, Body: []byte(`{"locks":[]}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = rules.MachineLocks{}.Follow(clusterName, c.userAuthorities(0), newer)
	if !fault.Is(err, fault.Invalid) || fault.Remedy(err) == "" {
		t.Errorf("got %v, want a fault that says to update", err)
	}
	// A fact that this program does not know makes the lock hit more; it is never left out.
	const unknown = `{"locks":[{"id":"x","match":{"machine":"%s","later":"y"},"effect":{"kind":"later"}}]}`
	raw := fmt.Appendf(nil, unknown, machine)
	unknownFact, err := rules.SignDocument(c.signers[0], rules.Document{
		Kind: rules.MachineLocksKind, Cluster: clusterName, Revision: rev(7), Time: noon, Body: raw,
	})
	if err != nil {
		t.Fatal(err)
	}
	locks, err := rules.MachineLocks{}.Follow(clusterName, c.userAuthorities(0), unknownFact)
	if _, denied := locks.Denied(machine, noon); err != nil || !denied {
		t.Errorf("got denied %v (%v) by a lock with an unknown fact, want denied", denied, err)
	}
}

// When the root has replaced a stolen rules key, what it signed counts no more for a login with the new
// authorities.
func TestMachineLocksOfAReplacedKey(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterName)
	byStolen := c.machineLocks(rev(99))
	c.epoch = 2
	after := c.userAuthorities(1)
	if _, err := (rules.MachineLocks{}).Follow(clusterName, after, byStolen); err == nil {
		t.Error("got a document of the replaced key accepted, want refused")
	}
	revision := rules.Revision{Epoch: 2, Index: 1}
	doc := c.document(c.signers[1], rules.MachineLocksKind, revision, rules.Locks{})
	if _, err := (rules.MachineLocks{}).Follow(clusterName, after, doc); err != nil {
		t.Errorf("got %v, want a document of the new key accepted", err)
	}
}

func FuzzMachineLocks(f *testing.F) {
	c := newCluster(f, clusterName)
	authorities := c.userAuthorities(0)
	doc := c.machineLocks(rev(5), machineLock(machine, noon))
	f.Add(doc.Payload, doc.Sig)
	f.Add([]byte("{}"), []byte{})
	f.Fuzz(func(t *testing.T, payload, sig []byte) {
		s := rules.Signed{Payload: payload, Sig: sig}
		got, err := rules.MachineLocks{}.Follow(clusterName, authorities, s)
		if err == nil && !bytes.Equal(payload, doc.Payload) {
			t.Errorf("got %q accepted at %s, want only what the cluster signed", payload, got.Revision())
		}
	})
}
