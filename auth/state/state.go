// Package state answers: what does the cluster know?
//
// It turns domain records into raftstore commands and back, and is the only package that imports raftstore.
// Every record is versioned JSON under a key prefix of its kind (table). What belongs together is gathered in
// a change and committed in one transaction, audit events included: a fact and its event are both stored, or
// neither is. Each file of this package holds one kind of record.
//
// Access is split by power. Reader reads everything that holds no secret. Machines, Tokens, Users and the
// other writers each change the records of one concern, and read. ConnectorReader, Connectors, Factors and
// Attempts open secrets too; they are the parts of a Vault. Only the wiring of auth holds a State and a
// Vault, and hands every package the part that it needs.
package state

import (
	"sync/atomic"

	"github.com/threshold-access/threshold/raftstore"
)

// State is the whole of the cluster's knowledge: every read, and one writer for each concern.
// It is safe for concurrent use.
type State struct {
	*Reader

	Machines    *Machines
	Attachments *Attachments
	Tokens      *Tokens
	Users       *Users
	Roles       *Roles
	Settings    *Settings
	Rules       *Rules
	Locks       *Locks
	Logins      *Logins
	Events      *Events
	Issuances   *Issuances
	Replicas    *Replicas
	Keyring     *Keyring
	RootChanges *RootChanges

	writer writer // what the fields above and Vault write through
}

// New reads and writes through an open store.
func New(store *raftstore.Store) *State {
	reader := &Reader{
		store:   store,
		roleSet: new(atomic.Pointer[RoleSet]),
		lockSet: new(atomic.Pointer[LockSet]),
	}
	w := writer{Reader: reader, store: store}
	return &State{
		Reader:      reader,
		Machines:    &Machines{w},
		Attachments: &Attachments{w},
		Tokens:      &Tokens{w},
		Users:       &Users{w},
		Roles:       &Roles{w},
		Settings:    &Settings{w},
		Rules:       &Rules{w},
		Locks:       &Locks{w},
		Logins:      &Logins{w},
		Events:      &Events{w},
		Issuances:   &Issuances{w},
		Replicas:    &Replicas{w},
		Keyring:     &Keyring{w},
		RootChanges: &RootChanges{w},
		writer:      w,
	}
}
