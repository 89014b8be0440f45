package rules_test

import (
	"context"
	"crypto"
	"encoding/json"
	"sync/atomic"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/clustertest"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/fault/faulttest"
	"github.com/threshold-access/threshold/internal/identity"
	signed "github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/proxy/proxytest"
	"github.com/threshold-access/threshold/proxy/rules"
)

// ackFixture is a carrier and its acknowledgements, which run.
type ackFixture struct {
	*fixture
	*rules.Acknowledgements
	key crypto.Signer // of the proxy
}

func newAckFixture(t *testing.T) *ackFixture {
	t.Helper()
	f := &ackFixture{fixture: newFixture(t)}
	cert, err := f.TLSCertificate()
	if err != nil {
		t.Fatal(err)
	}
	f.key = cert.PrivateKey.(crypto.Signer)
	f.Acknowledgements = rules.NewAcknowledgements(rules.AcknowledgementsConfig{
		Rules: f.Carrier,
		ID:    f.ProxyID(),
		Key:   func() (crypto.Signer, error) { return f.key, nil },
		Auth:  f.cfg.Auth,
		Now:   time.Now,
		Log:   proxytest.Log(),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	stopCarrier := f.run()
	go func() { done <- f.Acknowledgements.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		stopCarrier()
	})
	return f
}

// call is the acknowledgements of the next call of auth.
func (f *ackFixture) call() []authrpc.MachineAcknowledgement {
	f.t.Helper()
	select {
	case r := <-f.Auth.Acknowledgements:
		return r.Acknowledgements
	case <-time.After(waitLimit):
		f.t.Fatal("got no acknowledgements")
	}
	return nil
}

// until takes calls until one satisfies ok, for which it gets every acknowledgement by its machine. It
// returns how many calls there were.
func (f *ackFixture) until(ok func(machine identity.MachineID, s signed.Signed) bool) (calls int) {
	f.t.Helper()
	for {
		calls++
		for _, a := range f.call() {
			if ok(a.Machine, a.Signed) {
				return calls
			}
		}
	}
}

// own reports whether it is what the proxy has signed of itself, with the roles of its present head.
func (f *ackFixture) own(machine identity.MachineID, s signed.Signed) bool {
	f.t.Helper()
	if machine != f.ProxyID() {
		return false
	}
	a, err := signed.VerifyAcknowledgement(s, f.key.Public())
	if err != nil || a.Machine != f.ProxyID() {
		f.t.Fatalf("got %+v, %v, want what the proxy has signed", a, err)
	}
	return a.Has(signed.RolesKind, f.Current().Head.Docs[signed.RolesKind].Revision)
}

// text is an acknowledgement in its wire form, whose payload is a text.
func text(t *testing.T, s string) []byte {
	t.Helper()
	b, err := json.Marshal(signed.Signed{Payload: []byte(s), Sig: []byte("sig")})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The proxy says by which rules it decides at the start and when a document changes. A new head alone is no
// change.
func TestAProxyAcknowledgesItsOwnRules(t *testing.T) {
	t.Parallel()
	f := newAckFixture(t)
	f.until(f.own)
	f.SetRoles(role("ops"))
	f.Publish(f.SignRules())
	f.until(func(machine identity.MachineID, s signed.Signed) bool {
		_, has := f.Current().Policy.Roles["ops"]
		return has && f.own(machine, s)
	})
	pushes, unsubscribe := f.Subscribe()
	defer unsubscribe()
	<-pushes
	f.Publish(f.SignRules())
	<-pushes // the head is in force
	take, end := f.Source("web")
	defer end()
	take(text(t, "one"))
	if got := f.call(); len(got) != 1 || got[0].Machine != "web" {
		t.Errorf("got %+v, want that of the node alone", got)
	}
}

// What nodes acknowledge together shares calls, as they have signed it.
func TestAcknowledgementsShareCalls(t *testing.T) {
	t.Parallel()
	f := newAckFixture(t)
	f.until(f.own)
	const nodes = 200
	for range nodes {
		take, end := f.Source("web")
		defer end()
		take(text(t, "one"))
	}
	seen := 0
	calls := f.until(func(machine identity.MachineID, s signed.Signed) bool {
		if machine != "web" || string(s.Payload) != "one" || string(s.Sig) != "sig" {
			t.Errorf("got %+v of %s, want what the node signed", s, machine)
		}
		seen++
		return seen == nodes
	})
	if calls > nodes/10 {
		t.Errorf("got %d calls for %d nodes, want few", calls, nodes)
	}
}

// While auth is away, the newest of each tunnel is kept, and sent when auth is back.
func TestTheNewestIsKeptWhileAuthIsAway(t *testing.T) {
	t.Parallel()
	f := newAckFixture(t)
	f.until(f.own)
	var down atomic.Bool
	refused := make(chan struct{}, 100)
	type (
		request  = authrpc.ReportAcknowledgementsRequest
		response = authrpc.ReportAcknowledgementsResponse
	)
	clustertest.Answer(f.Cluster, authrpc.ReportAcknowledgements, func(r request) (none response, err error) {
		if down.Load() {
			refused <- struct{}{}
			return none, faulttest.New(fault.Unavailable, "auth", "the auth service is down", "wait")
		}
		f.Auth.Acknowledgements <- r
		return none, nil
	})
	down.Store(true)
	take, end := f.Source("web")
	defer end()
	takeOther, endOther := f.Source("db")
	defer endOther()
	takeOther(text(t, "kept"))
	take(text(t, "one"))
	for range 2 { // then both have been tried
		select {
		case <-refused:
		case <-time.After(waitLimit):
			t.Fatal("what could not be sent is not tried again")
		}
	}
	take(text(t, "two"))
	take(text(t, "three"))
	down.Store(false)
	heard := map[identity.MachineID]string{}
	f.until(func(machine identity.MachineID, s signed.Signed) bool {
		heard[machine] = string(s.Payload)
		return heard["web"] == "three" && heard["db"] == "kept"
	})
}

// A head of another term is of an auth service that has heard nothing: it gets everything again, though
// nothing has changed.
func TestARestartedAuthServiceHearsEverythingAgain(t *testing.T) {
	t.Parallel()
	f := newAckFixture(t)
	f.until(f.own)
	for _, node := range []identity.MachineID{"web", "db"} {
		take, end := f.Source(node)
		defer end()
		take(text(t, "of "+string(node)))
	}
	_, end := f.Source("silent") // its node has said nothing
	defer end()
	all := func(what string) {
		t.Helper()
		heard := map[identity.MachineID]bool{}
		f.until(func(machine identity.MachineID, s signed.Signed) bool {
			if machine == "silent" {
				t.Error("got something of a node that has said nothing")
			}
			heard[machine] = machine == f.ProxyID() && f.own(machine, s) ||
				string(s.Payload) == "of "+string(machine)
			return heard["web"] && heard["db"] && (heard[f.ProxyID()] || what == "before")
		})
	}
	all("before")
	f.BeginTerm()
	f.Publish(f.SignRules())
	all("after a restart")
}
