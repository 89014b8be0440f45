package resources

import (
	"context"
	"time"

	"github.com/threshold-access/threshold/auth/join"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/access"
	events "github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/identity"
)

// The interfaces below divide the power over documents by kind: the code of one kind holds only its own
// store, so it cannot touch the documents of another. The argument old of a Put, Change or Remove is what was
// read before: if the record was written since then, they return fault Conflict and write nothing. An old
// of a Put with revision 0 means that there must be no record yet. The events are committed together with the
// change.

// Policies knows the roles that are in force. state.Reader implements it.
type Policies interface {
	Policy(ctx context.Context) (access.Policy, error)
}

// Events stores audit events that belong to no change, such as refusals. state.Events implements it.
type Events interface {
	AppendEvents(ctx context.Context, events ...events.Event) error
}

// Log reads the audit log. auth/audit.Log implements it.
type Log interface {
	Read(ctx context.Context, after uint64, limit int) ([]state.NumberedEvent, error)
}

// Roles reads and changes roles. state.Roles implements it.
type Roles interface {
	Role(ctx context.Context, name string) (state.Stored[access.Role], error)
	ListRoles(ctx context.Context, p state.Page) (state.Listing[access.Role], error)
	PutRole(
		ctx context.Context, old state.Stored[access.Role], next access.Role, now time.Time,
		events ...events.Event,
	) (uint64, error)
	RemoveRole(
		ctx context.Context, old state.Stored[access.Role], now time.Time, events ...events.Event,
	) error
}

// Connectors reads and changes connectors, with their secrets. state.Connectors implements it.
type Connectors interface {
	Connector(ctx context.Context, name string) (state.StoredConnector, error)
	ListConnectors(ctx context.Context) ([]state.StoredConnector, error)
	PutConnector(
		ctx context.Context, old state.StoredConnector, next state.Connector, taken []access.Lock,
		by state.By, events ...events.Event,
	) error
	RemoveConnector(
		ctx context.Context, old state.StoredConnector, by state.By, events ...events.Event,
	) error
}

// Users reads and changes users. state.Users implements it.
type Users interface {
	UserByID(ctx context.Context, id string) (state.Stored[state.User], error)
	ListUsers(ctx context.Context, p state.Page) (state.Listing[state.User], error)
	HasFactor(ctx context.Context, k identity.UserKey) (bool, error)
	PutUser(
		ctx context.Context, old state.Stored[state.User], u state.User, by state.By,
		events ...events.Event,
	) error
	RemoveUser(
		ctx context.Context, old state.Stored[state.User], by state.By, events ...events.Event,
	) error
}

// Tokens reads and removes join tokens. state.Tokens implements it.
type Tokens interface {
	Token(ctx context.Context, name string) (state.Stored[state.Token], error)
	ListTokens(ctx context.Context, p state.Page) (state.Listing[state.Token], error)
	RemoveToken(ctx context.Context, old state.Stored[state.Token], events ...events.Event) error
}

// TokenCreator creates join tokens. join.Service implements it.
type TokenCreator interface {
	Create(ctx context.Context, w join.TokenRequest) (authrpc.Token, state.Stored[state.Token], error)
}

// Locks reads and changes locks. state.Locks implements it.
type Locks interface {
	Lock(ctx context.Context, id string) (state.Stored[access.Lock], error)
	ListLocks(ctx context.Context, p state.Page) (state.Listing[access.Lock], error)
	PutLock(
		ctx context.Context, old state.Stored[access.Lock], lock access.Lock, now time.Time,
		events ...events.Event,
	) error
	RemoveLock(
		ctx context.Context, old state.Stored[access.Lock], now time.Time, events ...events.Event,
	) error
}

// Confirmations knows which machines decide by which locks. auth/rules.Acknowledgements implements it.
type Confirmations interface {
	Confirmations(
		ctx context.Context, req authrpc.LockConfirmationsRequest,
	) (authrpc.LockConfirmationsResponse, error)
}

// Settings reads and changes the settings of the cluster. state.Settings implements it.
type Settings interface {
	Settings(ctx context.Context) (state.Stored[access.Settings], error)
	PutSettings(
		ctx context.Context, old state.Stored[access.Settings], next access.Settings, now time.Time,
		events ...events.Event,
	) error
}

// Replicas reads the replicas of the auth service. state.Reader implements it.
type Replicas interface {
	ReplicaByName(ctx context.Context, name string) (state.Stored[state.Replica], error)
	ListReplicas(ctx context.Context, p state.Page) (state.Listing[state.Replica], error)
}

// Machines reads, relabels and removes machines. state.Machines implements it.
type Machines interface {
	Machine(ctx context.Context, id identity.MachineID) (state.Stored[state.Machine], error)
	MachineByName(ctx context.Context, name string) (state.Stored[state.Machine], error)
	ListMachines(ctx context.Context, k identity.Kind, p state.Page) (state.Listing[state.Machine], error)
	ChangeMachine(
		ctx context.Context, old state.Stored[state.Machine], next state.Machine, events ...events.Event,
	) (uint64, error)
	RemoveMachine(
		ctx context.Context, old state.Stored[state.Machine], by state.By, events ...events.Event,
	) error
}
