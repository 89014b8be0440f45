package node

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"path/filepath"
	"time"

	"golang.org/x/crypto/ssh"

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

// Run joins the cluster if the node is no member yet, and serves until ctx ends. Then it accepts no sessions
// and lets those that run go on for Config.Drain. The remaining ones are hung up on, their ends are recorded,
// and events that the auth service has not taken wait on disk for the next start.
func (n *Node) Run(ctx context.Context) (err error) {
	defer func() { n.ready.End(err) }()
	unlock, err := lockDir(n.cfg.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	if err := process.CloseDescriptorsOnExec(); err != nil {
		return err
	}
	m, err := n.join(ctx)
	if err != nil || m == nil {
		return err
	}
	id := m.Identity()
	n.identity.Store(&id)
	events, err := spool.Open(spool.Config{
		Dir:  filepath.Join(n.cfg.Dir, "spool"),
		Send: func(ctx context.Context, batch []audit.Event) error { return sendEvents(ctx, m, batch) },
		Now:  n.cfg.Now,
		Log:  n.cfg.Log,
	})
	if err != nil {
		return err
	}
	keeper, err := rules.Open(rules.Config{
		Dir:   n.cfg.Dir,
		Pin:   m.Pin(),
		First: m.FirstRules(),
		Log:   n.cfg.Log,
	})
	if err != nil {
		return err
	}
	server := sshd.New(sshd.Config{
		Identity:   m.Identity,
		HostSigner: func() (ssh.Signer, error) { return m.HostSigner() },
		Rules:      keeper.Current,
		Audit:      events.Record,
		Accounts:   *n.cfg.Accounts,
		Now:        n.cfg.Now,
		Log:        n.cfg.Log,
	})
	tunnels := uplink.New(n.uplinkConfig(m, keeper, server))
	n.tunnels.Store(tunnels)
	return n.serve(ctx, m, events, server, tunnels)
}

// serve runs the parts of a node that is a member, until ctx ends or one of them fails. The parts stop in the
// reverse of their order here: sessions end with the tunnels, and their last events are sent after that.
func (n *Node) serve(
	ctx context.Context,
	m *member.Member,
	events *spool.Spool,
	server *sshd.Server,
	tunnels *uplink.Tunnels,
) error {
	parts := lifecycle.New(ctx)
	parts.Run("audit events", events.Run)
	parts.Run("membership", m.Run)
	parts.Run("tunnels", tunnels.Run)
	<-parts.Context().Done()
	if ctx.Err() != nil {
		drain, cancel := lifecycle.DrainContext(ctx, n.cfg.Drain)
		server.Drain(drain)
		cancel()
	}
	return parts.Stop()
}

// uplinkConfig connects the tunnels with what they bring: sessions to the server, rules to the keeper.
func (n *Node) uplinkConfig(m *member.Member, keeper *rules.Keeper, server *sshd.Server) uplink.Config {
	id := m.Identity()
	return uplink.Config{
		Proxies: n.cfg.Proxies,
		Dialer:  n.dialer,
		Pin:     m.Pin(),
		Cluster: id.Cluster,
		ID:      id.ID,
		Key:     m.Key(),
		Cert:    func() (*tls.Certificate, error) { return m.TLSCertificate() },
		Version: n.cfg.Version,
		Now:     n.cfg.Now,
		Log:     n.cfg.Log,
		Handle: func(ctx context.Context, conn net.Conn, h tunnel.Header, proxy string) {
			server.Serve(ctx, conn, sshd.Origin{From: h.From, Proxy: proxy, Protocol: h.Protocol})
		},
		Rules: func(push tunnel.RulesPush) {
			if err := applyPush(keeper, push); err != nil {
				n.cfg.Log.Warn("pushed rules are not used", "err", err)
			}
		},
		Attached: n.ready.Set,
	}
}

// applyPush applies a whole set of rules, and then the head that came after it. Either may be missing.
func applyPush(keeper *rules.Keeper, push tunnel.RulesPush) error {
	var errSet, errHead error
	if push.Set != nil {
		errSet = keeper.Offer(push.Set)
	}
	if push.Head != nil {
		errHead = keeper.OfferHead(push.Head)
	}
	return errors.Join(errSet, errHead)
}

// join loads the membership, or becomes a member. A cluster that cannot be reached is tried again, because a
// machine often starts before its network; every other fault needs a person. It returns neither a member nor
// an error if ctx ended first.
func (n *Node) join(ctx context.Context) (*member.Member, error) {
	const leastPause = 500 * time.Millisecond
	pauses := backoff.Backoff{First: time.Second, Max: time.Minute}
	for try := 0; ; try++ {
		m, err := member.LoadOrJoin(ctx, member.Config{
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
			return m, nil
		case errors.Is(err, context.Canceled):
			return nil, nil
		case !fault.Is(err, fault.Unavailable):
			return nil, err
		case ctx.Err() != nil:
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

// sendEvents sends events to the auth service. If that does not answer, the next call tries the next address.
func sendEvents(ctx context.Context, m *member.Member, batch []audit.Event) error {
	_, err := authrpc.Call(ctx, m.Auth(), authrpc.SendEvents, authrpc.SendEventsRequest{Events: batch})
	if fault.Is(err, fault.Unavailable) {
		m.TryNext()
	}
	return err
}
