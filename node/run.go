package node

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"time"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/backoff"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/lifecycle"
	"github.com/threshold-access/threshold/internal/member"
	"github.com/threshold-access/threshold/internal/tunnel"
	"github.com/threshold-access/threshold/node/process"
	"github.com/threshold-access/threshold/node/rules"
	"github.com/threshold-access/threshold/node/spool"
	"github.com/threshold-access/threshold/node/sshd"
	"github.com/threshold-access/threshold/node/uplink"
)

// Run joins the cluster if the node is no member yet, and then serves. When ctx ends, it accepts no further
// sessions, lets those that run go on for up to DrainTime or until a second signal to the process, and
// then ends the remaining ones. It returns nil when all have ended and their ends are recorded. Audit events
// that the auth service has not stored wait on disk for the next start.
//
// The error is why the node cannot start or cannot go on: a fault of lockDir or of the membership, or an
// error of the files in Config.Dir. A cluster that cannot be reached is no error; Run keeps trying.
func (n *Node) Run(ctx context.Context) (err error) {
	defer func() { n.ready.End(err) }()
	unlock, err := lockDir(n.cfg.Dir) // before anything in the directory is read or written
	if err != nil {
		return err
	}
	defer unlock()
	// So that no program of a session inherits a descriptor of this process.
	if err := process.CloseDescriptorsOnExec(); err != nil {
		return err
	}
	membership, err := n.join(ctx)
	if err != nil || membership == nil { // nil: ctx has ended
		return err
	}
	id := membership.Identity()
	n.identity.Store(&id)
	events, err := spool.Open(spool.Config{
		Dir: filepath.Join(n.cfg.Dir, "spool"),
		Send: func(ctx context.Context, batch []audit.Event) error {
			return sendEvents(ctx, membership, batch)
		},
		Now: n.cfg.Now,
		Log: n.cfg.Log,
	})
	if err != nil {
		return err
	}
	keeper, err := rules.Open(rules.Config{
		Dir:   n.cfg.Dir,
		Pin:   membership.Pin(),
		First: membership.FirstRules(),
		Now:   n.cfg.Now,
		Log:   n.cfg.Log,
	})
	if err != nil {
		return err
	}
	n.keeper.Store(keeper)
	server := sshd.New(sshd.Config{
		Identity:   membership.Identity,
		HostSigner: membership.HostSigner,
		Rules:      keeper,
		Audit:      events.Record,
		Accounts:   *n.cfg.Accounts,
		Now:        n.cfg.Now,
		Log:        n.cfg.Log,
	})
	tunnels := uplink.New(n.uplinkConfig(membership, keeper, server))
	n.tunnels.Store(tunnels)
	return n.serve(ctx, membership, events, keeper, server, tunnels)
}

// serve runs the parts of a node that is a member, until ctx ends or one of them fails. When ctx ends, it
// first drains the server. Then it stops the parts in the reverse of the order in which it started them: the
// tunnels first, because sessions end with them, and the audit events last, because the ends of sessions are
// to be sent. It returns nil after ctx has ended, or the error of the part that failed.
func (n *Node) serve(
	ctx context.Context,
	membership *member.Member,
	events *spool.Spool,
	keeper *rules.Keeper,
	server *sshd.Server,
	tunnels *uplink.Tunnels,
) error {
	parts := lifecycle.New(ctx)
	parts.Run("audit events", events.Run)
	parts.Run("membership", membership.Run)
	parts.Run("rules on disk", keeper.Run)
	parts.Run("open sessions", server.Run)
	parts.Run("tunnels", tunnels.Run)
	<-parts.Context().Done()
	if ctx.Err() != nil { // after a failure of a part sessions are not waited for
		drainCtx, cancel := lifecycle.DrainContext(ctx, n.DrainTime())
		server.Drain(drainCtx)
		cancel()
	}
	return parts.Stop()
}

// uplinkConfig returns the configuration of the tunnels. A stream that arrives through a tunnel is served by
// server, and pushed rules are applied by keeper, which verifies them.
func (n *Node) uplinkConfig(
	membership *member.Member,
	keeper *rules.Keeper,
	server *sshd.Server,
) uplink.Config {
	id := membership.Identity()
	return uplink.Config{
		Proxies:  n.cfg.Proxies,
		Dialer:   n.dialer,
		Pin:      membership.Pin(),
		Cluster:  id.Cluster,
		Tunnels:  keeper.Current().Policy.Settings.WithDefaults().Tunnels,
		ID:       id.ID,
		Key:      membership.Key(),
		Cert:     membership.TLSCertificate,
		Version:  n.cfg.Version,
		Instance: identity.NewInstanceID(),
		Features: sshd.Features(),
		Now:      n.cfg.Now,
		Log:      n.cfg.Log,
		Handle: func(ctx context.Context, conn net.Conn, header tunnel.Header, proxy identity.Identity) {
			server.Serve(ctx, conn, sshd.Origin{
				From:       header.From,
				Proxy:      proxy.Name,
				ProxyID:    proxy.ID,
				Protocol:   header.Protocol,
				Connection: header.Connection,
				Features:   header.Features,
			})
		},
		Rules: func(pushed tunnel.PushedRules) (lacking []string) {
			pieces := pushed.Pieces
			if pushed.Head != nil {
				pieces = append(pieces, pushed.Head)
			}
			lacking, err := keeper.Offer(pieces...)
			if err != nil {
				n.cfg.Log.Warn("pushed rules are not used", "err", err)
			}
			return lacking
		},
		Acknowledgement: rules.NewAcknowledger(keeper, id.ID, membership.Key()).Newest,
		Attached:        n.ready.Set,
		Changed:         keeper.Changed,
		Refuse: func(proxy identity.Identity) error {
			trust := keeper.Current()
			lock, locked := trust.Policy.Locks.MachineDenied(proxy.ID, trust.Now(n.cfg.Now()))
			if !locked {
				return nil
			}
			denial := lock.Denial("proxy " + proxy.Name)
			return proxyLocked.New("node", fault.Args{"why": denial.Reason, "hint": denial.Remedy})
		},
	}
}

// join returns the membership of this node. It loads the membership from disk, or joins the cluster. If the
// cluster cannot be reached, join tries the next proxy after a pause, without end, because a machine often
// starts before its network. Every other fault is returned: an administrator must do something. If ctx ends
// first, join returns nil and no error.
func (n *Node) join(ctx context.Context) (*member.Member, error) {
	const leastPause = 500 * time.Millisecond
	pauses := backoff.Backoff{First: time.Second, Max: time.Minute}
	for try := 0; ; try++ {
		membership, err := member.LoadOrJoin(ctx, member.Config{
			Dir:       n.cfg.Dir,
			Kind:      identity.Node,
			AuthAddr:  n.cfg.Proxies[try%len(n.cfg.Proxies)],
			Fallbacks: n.cfg.Proxies,
			Dialer:    n.dialer,
			Token:     n.cfg.Token,
			Name:      n.cfg.Name,
			Labels:    n.cfg.Labels,
			Now:       n.cfg.Now,
			Log:       n.cfg.Log,
		})
		switch {
		case err == nil:
			return membership, nil
		case errors.Is(err, context.Canceled): // by ctx
			return nil, nil
		case !fault.Is(err, fault.Unavailable):
			return nil, err
		case ctx.Err() != nil: // the cluster was unavailable because ctx has ended
			return nil, nil
		}
		pause := leastPause + pauses.Next()
		n.cfg.Log.Warn("the cluster cannot be joined yet",
			"err", err, "remedy", fault.Remedy(err), "retry_in", pause)
		if !backoff.Sleep(ctx, pause) {
			return nil, nil
		}
	}
}

// sendEvents sends events to the auth service, and returns nil when it has stored them. If it cannot be
// reached at the current address, the error is a fault of kind Unavailable, and the next call tries the next
// address.
func sendEvents(ctx context.Context, membership *member.Member, batch []audit.Event) error {
	req := authrpc.SendEventsRequest{Events: batch}
	_, err := authrpc.Call(ctx, membership.Auth(), authrpc.SendEvents, req)
	if fault.Is(err, fault.Unavailable) {
		membership.TryNext()
	}
	return err
}
