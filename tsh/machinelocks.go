package tsh

import (
	"context"
	"crypto/tls"
	"fmt"
	"sync"
	"time"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/tsh/profile"
	"github.com/threshold-access/threshold/tsh/terminal"
)

// machineLocksTime bounds the question to the auth service for locks that are too large for a proxy's reply.
const machineLocksTime = 5 * time.Second

// machineLocks are the locks of machines that tsh has heard of. By them tsh itself refuses a stolen machine,
// also if the proxy in between is stolen too and ignores them. A proxy can keep new ones back, but never
// change or take back one that tsh has.
//
// tsh asks nobody before it connects. The locks come with a login, and then with the replies of proxies: see
// learn.
type machineLocks struct {
	app  *app
	prof *profile.Profile

	mu   sync.Mutex // guards held: SSH reads the reply and verifies the node in goroutines of its own
	held rules.MachineLocks
}

// machineLocks returns the locks that the profile has. Locks that cannot be used are reported and left out:
// the next reply of a proxy brings them again.
func (a *app) machineLocks(prof *profile.Profile) *machineLocks {
	held, err := prof.MachineLocks()
	if err != nil {
		a.warnOfLocks("the locks of machines in the profile cannot be used", err)
	}
	return &machineLocks{app: a, prof: prof, held: held}
}

// warnOfLocks prints what is wrong with locks. It is no error: proxies and nodes check the locks too.
func (a *app) warnOfLocks(what string, err error) {
	fmt.Fprintf(a.Stderr, "tsh: %s: %s\n", what, terminal.Clean(fault.Message(err)))
}

// current returns the locks that tsh has now.
func (l *machineLocks) current() rules.MachineLocks {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held
}

// learn takes the locks that a proxy's reply brings, verifies them and keeps them in the profile. If they
// were too large for the reply, it asks the auth service. It reports what cannot be used, and goes on with
// the locks that tsh has: a proxy that means harm would not have sent any.
func (l *machineLocks) learn(ctx context.Context, reply dial.Reply) {
	document, at := reply.MachineLocks, reply.MachineLocksAt
	if document == nil && at != nil && l.current().Revision().Before(*at) {
		fetched, err := l.fetch(ctx)
		if err != nil {
			l.app.warnOfLocks("the auth service did not send the locks of machines", err)
			return
		}
		document = &fetched
	}
	if document == nil {
		return
	}
	held := l.current()
	next, err := held.Follow(l.prof.Cluster, l.prof.Authorities, *document)
	if err != nil {
		l.app.warnOfLocks("the locks of machines from the proxy are not used (tsh login gets new ones)", err)
		return
	}
	if next.Revision() != held.Revision() {
		l.keep(next)
	}
}

// keep makes next the locks that tsh has, in this command and in the profile.
func (l *machineLocks) keep(next rules.MachineLocks) {
	l.mu.Lock()
	l.held = next
	l.mu.Unlock()
	kept, err := l.prof.MachineLocks()
	if err == nil && next.Revision().Before(kept.Revision()) {
		return // another tsh has learned more meanwhile
	}
	if err := l.prof.SaveMachineLocks(next); err != nil && !next.Empty() {
		l.app.warnOfLocks("the locks of machines are not kept for later", err)
	}
}

// fetch asks the auth service for the document of machine locks, which is not verified yet.
func (l *machineLocks) fetch(ctx context.Context) (rules.Signed, error) {
	ctx, cancel := context.WithTimeout(ctx, machineLocksTime)
	defer cancel()
	client := l.app.auth(l.prof)
	defer client.Close()
	resp, err := authrpc.Call(ctx, client, authrpc.GetMachineLocks, authrpc.GetMachineLocksRequest{})
	return resp.MachineLocks, err
}

// checkProxy returns a Denied fault if the proxy at the other end of the connection is locked.
func (l *machineLocks) checkProxy(conn *tls.Conn) error {
	locks, now := l.current(), l.app.Now()
	if locks.Empty() {
		return nil
	}
	chain := conn.ConnectionState().PeerCertificates
	proxy, err := identity.VerifyPinned(chain, l.prof.Pin, l.prof.Cluster, now, identity.Proxy)
	if err != nil {
		return err
	}
	lock, locked := locks.Denied(proxy.ID, now)
	if !locked {
		return nil
	}
	denial := lock.Denial("connections through proxy " + proxy.Name)
	return proxyLocked.New("", fault.Args{
		"machine": terminal.Clean(proxy.Name),
		"reason":  terminal.Clean(denial.Reason),
		"hint":    terminal.Clean(denial.Remedy),
	})
}

// checkNode returns a Denied fault if the node with this id is locked. name is how the user calls it.
func (l *machineLocks) checkNode(name string, id identity.MachineID) error {
	lock, locked := l.current().Denied(id, l.app.Now())
	if !locked {
		return nil
	}
	denial := lock.Denial("connections to node " + name)
	return nodeLocked.New("", fault.Args{
		"machine": name,
		"reason":  terminal.Clean(denial.Reason),
		"hint":    terminal.Clean(denial.Remedy),
	})
}

// keepLoginLocks keeps the locks that the auth service has sent with a login, in the place of those from
// before: what it sends itself is current, also after a restore from a backup with an older revision. nil:
// it has sent none.
func (a *app) keepLoginLocks(prof *profile.Profile, document *rules.Signed) {
	if document == nil {
		return
	}
	locks, err := rules.MachineLocks{}.Follow(prof.Cluster, prof.Authorities, *document)
	if err == nil {
		err = prof.SaveMachineLocks(locks)
	}
	if err != nil {
		a.warnOfLocks("the locks of machines are not kept for later", err)
	}
}
