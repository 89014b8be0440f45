// Package statetest gives tests of auth's rooms a cluster's state, on a real store, without the keys of a
// cluster.
package statetest

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/ca/keyring/keyringtest"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/raftstore/raftstoretest"
)

// Cluster is the name of the cluster.
const Cluster = "example.com"

// NewCluster opens a store and gives birth to a cluster with the roles.
func NewCluster(t testing.TB, roles ...access.Role) (*state.State, *state.Vault) {
	t.Helper()
	st := state.New(raftstoretest.Open(t))
	vault := state.NewVault(st, keyringtest.Seal(t))
	err := vault.CreateCluster(t.Context(), state.InitialRecords{
		Cluster: state.Cluster{
			Name:    Cluster,
			Seal:    "file:///seal.key",
			Created: time.Now().UTC(),
		}, Keyring: json.RawMessage(`{}`), Roles: roles,
	})
	if err != nil {
		t.Fatal(err)
	}
	return st, vault
}

// User is someone who logged in with the roles.
func User(name string, roles ...string) identity.Identity {
	return identity.Identity{
		Kind:      identity.User,
		Cluster:   Cluster,
		Name:      name,
		Connector: "corp",
		Subject:   "sub-" + name,
		LoginID:   "login-1",
		Roles:     roles,
	}
}
