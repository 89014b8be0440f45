// Package statetest gives the tests of auth's packages the state of a cluster, on a real store in memory, but
// without the keys of a cluster.
package statetest

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/ca/keyring/keyringtest"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/raftstore/raftstoretest"
)

// Cluster is the name of the cluster.
const Cluster = "example.com"

// NewCluster opens a store and creates a cluster with the roles in it.
func NewCluster(t testing.TB, roles ...access.Role) (*state.State, *state.Vault) {
	t.Helper()
	st := state.New(raftstoretest.Open(t))
	vault := state.NewVault(st, keyringtest.Secrets(t))
	err := vault.CreateCluster(t.Context(), state.InitialRecords{
		Cluster: state.Cluster{Name: Cluster, Seal: "file:///seal.key", Created: time.Now().UTC()},
		Keyring: json.RawMessage(`{}`),
		Roles:   roles,
	})
	if err != nil {
		t.Fatal(err)
	}
	return st, vault
}

// Events returns the first 1000 events of the audit log.
func Events(t testing.TB, st *state.State) (events []audit.Event) {
	t.Helper()
	stored, err := st.ReadEvents(t.Context(), 1, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, numbered := range stored {
		var e audit.Event
		if err := json.Unmarshal(numbered.JSON, &e); err != nil {
			t.Fatal(err)
		}
		if err := e.Check(); err != nil {
			t.Errorf("event %d: %v", numbered.Number, err)
		}
		events = append(events, e)
	}
	return events
}

// Body returns the body of an event.
func Body[B audit.Body](t testing.TB, e audit.Event) B {
	t.Helper()
	body, err := audit.BodyOf[B](e)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// User is a user who logged in and has the roles.
func User(name string, roles ...string) identity.Identity {
	return identity.Identity{
		Kind:      identity.User,
		Profile:   identity.UserProfile,
		Cluster:   Cluster,
		Name:      name,
		Connector: "corp",
		Subject:   "sub-" + name,
		LoginID:   "login-1",
		Roles:     roles,
	}
}
