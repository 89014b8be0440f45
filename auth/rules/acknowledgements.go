package rules

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/limitedlog"
	signed "github.com/threshold-access/threshold/internal/rules"
)

// recentlyAttached is for how long a node counts as attached after its last tunnel has ended: it may be on
// its way to another proxy.
const recentlyAttached = 2 * time.Minute

// pruneFactor and pruneMargin say when acknowledgements of removed machines are looked for: when there are so
// many more than there were after the last time.
const pruneFactor, pruneMargin = 2, 20

// Machines is what acknowledgements are judged by. state.Reader is one.
type Machines interface {
	Machine(ctx context.Context, id identity.MachineID) (state.Stored[state.Machine], error)
	ListMachines(ctx context.Context, kind identity.Kind, p state.Page) (state.Listing[state.Machine], error)
	AttachedMachines(ctx context.Context, since time.Time) (map[identity.MachineID]struct{}, error)
	Lock(ctx context.Context, id string) (state.Stored[access.Lock], error)
	LockSet(ctx context.Context) (*state.LockSet, error)
	AuthoritiesChain(ctx context.Context) ([]state.Authorities, error)
}

// AcknowledgementsConfig says what Acknowledgements needs; all of it is required.
type AcknowledgementsConfig struct {
	Machines Machines
	Now      func() time.Time
	Log      *slog.Logger
}

// Acknowledgements knows by which rules machines decide. It keeps what each machine has signed last, in
// memory alone: after a restart of auth it knows nothing until proxies have sent everything again, as they do
// when the heads of the rules are of another term. It is safe for concurrent use.
type Acknowledgements struct {
	cfg        AcknowledgementsConfig
	refusalLog *limitedlog.Logger // a proxy can cause refusals without end

	mu      sync.Mutex // guards the fields below
	newest  map[identity.MachineID]acknowledgement
	kept    int           // how many of newest there were when removed machines were last looked for
	changed chan struct{} // closed when something came, and then replaced
}

// acknowledgement is what a machine has signed last, verified.
type acknowledgement struct {
	signed.Acknowledgement
	digest signed.Digest // of its payload
}

// NewAcknowledgements makes an empty memory.
func NewAcknowledgements(cfg AcknowledgementsConfig) *Acknowledgements {
	return &Acknowledgements{
		cfg:        cfg,
		refusalLog: limitedlog.New(cfg.Log, time.Second, 20, cfg.Now),
		newest:     map[identity.MachineID]acknowledgement{},
		changed:    make(chan struct{}),
	}
}

// Report takes what a proxy passes on. Nothing of it is believed because the proxy says so: the machine must
// be on record and not locked, and must have signed it. What is older than what the machine signed before is
// left out, and what does not verify is logged and left out; neither is an error. More than
// authrpc.MaxAcknowledgements are fault Invalid.
func (a *Acknowledgements) Report(
	ctx context.Context, proxy identity.Identity, req authrpc.ReportAcknowledgementsRequest,
) (none authrpc.ReportAcknowledgementsResponse, err error) {
	if n := len(req.Acknowledgements); n > authrpc.MaxAcknowledgements {
		return none, acknowledgementsTooMany.New("rules.Report", fault.Args{
			"count": n,
			"most":  authrpc.MaxAcknowledgements,
		})
	}
	locks, err := a.cfg.Machines.LockSet(ctx)
	if err != nil {
		return none, err
	}
	took := false
	for _, reported := range req.Acknowledgements {
		isNew, err := a.take(ctx, reported, locks)
		if err != nil {
			machine := fmt.Sprintf("%.40q", reported.Machine)
			a.refusalLog.Log(slog.LevelWarn, "an acknowledgement of the rules was refused",
				"proxy", proxy.Name, "machine", machine, "err", err)
		}
		took = took || isNew
	}
	if !took {
		return none, nil
	}
	a.mu.Lock()
	close(a.changed)
	a.changed = make(chan struct{})
	prune := len(a.newest) > pruneFactor*a.kept+pruneMargin
	a.mu.Unlock()
	if prune {
		_, err = a.roster(ctx)
	}
	return none, err
}

// take verifies one acknowledgement, and keeps it if it is newer than the one that is kept. The error says
// why it is not believed.
func (a *Acknowledgements) take(
	ctx context.Context, reported authrpc.MachineAcknowledgement, locks *state.LockSet,
) (isNew bool, err error) {
	digest := reported.Signed.Digest()
	if old, ok := a.of(reported.Machine); ok && old.digest == digest {
		return false, nil // it came by another proxy, or again
	}
	machine, err := a.cfg.Machines.Machine(ctx, reported.Machine)
	if err != nil {
		return false, err
	}
	if lock, locked := locks.Locks.MachineDenied(reported.Machine, a.cfg.Now()); locked {
		return false, fmt.Errorf("the machine is locked (%s)", lock.ID)
	}
	key, err := x509.ParsePKIXPublicKey(machine.Value.X509Key)
	if err != nil {
		return false, err
	}
	next := acknowledgement{digest: digest}
	if next.Acknowledgement, err = signed.VerifyAcknowledgement(reported.Signed, key); err != nil {
		return false, err
	}
	if next.Machine != reported.Machine {
		return false, fmt.Errorf("it is signed for the machine %.40q", next.Machine)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if old, ok := a.newest[next.Machine]; ok && !next.Newer(old.Acknowledgement) {
		return false, nil // by a slower proxy, or by one that repeats it
	}
	if now := a.cfg.Now().UTC(); next.Time.After(now) { // shown, and compared only under one head
		next.Time = now
	}
	a.newest[next.Machine] = next
	return true, nil
}

// of returns what the machine has signed last. ok is false if nothing has come of it.
func (a *Acknowledgements) of(id identity.MachineID) (got acknowledgement, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	got, ok = a.newest[id]
	return got, ok
}

// member is a machine on record that is not locked, with what it has signed last.
type member struct {
	state.Machine
	attached bool
	acknowledgement
}

// roster returns the machines on record that are not locked, by name. It forgets what machines have signed
// that were removed.
func (a *Acknowledgements) roster(ctx context.Context) ([]member, error) {
	now := a.cfg.Now()
	a.mu.Lock()
	newest := maps.Clone(a.newest) // before the machines are listed: later ones are not forgotten below
	a.mu.Unlock()
	attached, err := a.cfg.Machines.AttachedMachines(ctx, now.Add(-recentlyAttached))
	if err != nil {
		return nil, err
	}
	locks, err := a.cfg.Machines.LockSet(ctx)
	if err != nil {
		return nil, err
	}
	var members []member
	removed := maps.Clone(newest) // less each machine that is on record
	for page := (state.Page{}); ; {
		got, err := a.cfg.Machines.ListMachines(ctx, "", page)
		if err != nil {
			return nil, err
		}
		for _, machine := range got.Items {
			id := machine.Value.ID
			delete(removed, id)
			if _, locked := locks.Locks.MachineDenied(id, now); locked {
				continue
			}
			_, isAttached := attached[id]
			members = append(members, member{machine.Value, isAttached, newest[id]})
		}
		if got.Next == "" {
			break
		}
		page.After = got.Next
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for id := range removed {
		delete(a.newest, id)
	}
	a.kept = len(a.newest)
	return members, nil
}

// LowestReader returns the newest version of the kind's format that every attached machine reads. It is 0 if
// one of them does not read the kind, or has not said what it reads, or if none is attached. What needs a
// newer version may be written when all can read it.
func (a *Acknowledgements) LowestReader(ctx context.Context, kind signed.Kind) (int, error) {
	members, err := a.roster(ctx)
	if err != nil {
		return 0, err
	}
	lowest, known := 0, false
	for _, m := range members {
		if reader := m.Docs[kind].Reader; m.attached && (!known || reader < lowest) {
			lowest, known = reader, true
		}
	}
	return max(0, lowest), nil
}
