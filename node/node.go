// Package node answers: how does a machine let people in without opening a port?
//
// It wires its rooms: membership (internal/member), tunnels to proxies (uplink), the signed rules (rules),
// the SSH server at the inner end (sshd), and the events that auth has not confirmed yet (spool). It listens
// on nothing.
package node

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/egress"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/lifecycle"
	"github.com/threshold-access/threshold/internal/member"
	"github.com/threshold-access/threshold/internal/tunnel"
	"github.com/threshold-access/threshold/node/account"
	"github.com/threshold-access/threshold/node/asaccount"
	"github.com/threshold-access/threshold/node/process"
	"github.com/threshold-access/threshold/node/rules"
	"github.com/threshold-access/threshold/node/spool"
	"github.com/threshold-access/threshold/node/sshd"
	"github.com/threshold-access/threshold/node/uplink"
)

// Config says what the node is and where it goes.
type Config struct {
	// Dir holds keys, rules and waiting events, mode 0700. No two nodes may share one.
	Dir string
	// Proxies are addresses of the cluster's public port, host:port. At least one.
	Proxies []string
	// Egress says what stands between this machine and them. The zero value means nothing does.
	Egress egress.Config
	// Token is the join token, needed for the first start only.
	Token string
	// Name is the name wished for at the join. Empty means this machine's host name.
	Name string
	// Labels are wished for at the join; those of the token win.
	Labels identity.Labels
	// Version is this program's release, for listings.
	Version string
	// Accounts are the accounts that sessions may run as. The zero value means this machine's.
	Accounts *account.Database
	// Drain is how long sessions may go on after Run's context has ended. Zero means 10 s; at most 1 h.
	Drain time.Duration
	// Log gets what happens; nil discards it.
	Log *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Bounds of Config.Drain.
const (
	DefaultDrain = 10 * time.Second
	MaxDrain     = time.Hour
)

// Node is one machine of the cluster.
type Node struct {
	cfg       Config
	dialer    *egress.Dialer
	ready     chan struct{}
	readyOnce sync.Once
	tunnels   atomic.Pointer[uplink.Tunnels] // nil before the node is a member
	mu        sync.Mutex                     // guards id
	id        identity.Identity
}

// New checks the configuration. It starts nothing.
func New(cfg Config) (*Node, error) {
	var wrong []string
	if cfg.Dir == "" {
		wrong = append(wrong, "there is no data directory")
	}
	if len(cfg.Proxies) == 0 {
		wrong = append(wrong, "there is no proxy to dial")
	}
	for _, p := range cfg.Proxies {
		host, port, err := net.SplitHostPort(p)
		if _, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || host == "" {
			wrong = append(wrong, "the proxy "+p+" is not host:port")
		}
	}
	if cfg.Name == "" {
		cfg.Name = hostName()
	}
	if err := identity.CheckMachineName(cfg.Name); err != nil {
		wrong = append(wrong, err.Error())
	}
	if err := cfg.Labels.Check(); err != nil {
		wrong = append(wrong, err.Error())
	}
	if cfg.Drain < 0 || cfg.Drain > MaxDrain {
		wrong = append(
			wrong,
			fmt.Sprintf("the time to drain is %s, not between 0 and %s", cfg.Drain, MaxDrain),
		)
	}
	if len(wrong) > 0 {
		return nil, fault.New(
			fault.Invalid,
			"node.New",
			strings.Join(wrong, "; "),
			"correct the flags or the configuration file; see -h",
		)
	}
	cfg.Egress.LearnTransport = true
	way, err := egress.New(cfg.Egress)
	if err != nil {
		return nil, err
	}
	if cfg.Accounts == nil {
		local := account.Local()
		cfg.Accounts = &local
	}
	cfg.Drain = cmp.Or(cfg.Drain, DefaultDrain)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Node{cfg: cfg, dialer: way, ready: make(chan struct{})}, nil
}

// hostName makes a node name of the machine's own.
func hostName() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return strings.ToLower(strings.TrimSuffix(name, "."))
}

// Helper reports whether this process is a helper of a node: this program, re-executed as an account. It then has done
// the helper's work and returns the status to exit with. Every program that embeds a node calls it first in main.
func Helper() (code int, is bool) {
	if code, is := process.RunHelper(); is {
		return code, true
	}
	return asaccount.RunHelper()
}

// Ready waits until the node has been attached to a proxy once.
func (n *Node) Ready(ctx context.Context) error {
	select {
	case <-n.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Identity is who the node is; the zero value before it is a member.
func (n *Node) Identity() identity.Identity {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.id
}

// Run joins the cluster if need be and serves until ctx ends. Then it takes nobody new and lets sessions go
// on for Drain; what is left is hung up, the ends are recorded, and what auth has not taken waits on disk for
// the next start.
func (n *Node) Run(ctx context.Context) error {
	unlock, err := lock(n.cfg.Dir)
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
	n.mu.Lock()
	n.id = m.Identity()
	n.mu.Unlock()
	events, err := spool.Open(
		spool.Config{Dir: filepath.Join(n.cfg.Dir, "spool"), Now: n.cfg.Now, Log: n.cfg.Log,
			Send: func(ctx context.Context, list []audit.Event) error { return sendEvents(ctx, m, list) }},
	)
	if err != nil {
		return err
	}
	keeper, err := rules.Open(
		rules.Config{Dir: n.cfg.Dir, Pin: m.Pin(), First: m.FirstRules(), Log: n.cfg.Log},
	)
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
	links := uplink.New(n.uplinkConfig(m, keeper, server))
	n.tunnels.Store(links)

	// Events are sent until the last session has ended and recorded it.
	sending, stopSending := context.WithCancel(context.WithoutCancel(ctx))
	defer stopSending()
	var sender errgroup.Group
	sender.Go(func() error { return events.Run(sending) })
	serving, hangUp := context.WithCancel(context.WithoutCancel(ctx))
	defer hangUp()
	group, gctx := errgroup.WithContext(serving)
	group.Go(func() error { return m.Run(gctx) })
	group.Go(func() error { return links.Run(gctx) })
	group.Go(func() error {
		defer hangUp()
		select {
		case <-ctx.Done():
			n.drain(ctx, server)
		case <-gctx.Done():
		}
		return nil
	})
	err = group.Wait()
	stopSending()
	return errors.Join(err, sender.Wait())
}

// drain lets sessions end by themselves, for a bounded time.
func (n *Node) drain(ctx context.Context, server *sshd.Server) {
	grace, cancel := lifecycle.DrainContext(ctx, n.cfg.Drain)
	defer cancel()
	server.Drain(grace)
}

func (n *Node) uplinkConfig(m *member.Member, keeper *rules.Keeper, server *sshd.Server) uplink.Config {
	id := m.Identity()
	return uplink.Config{
		Proxies: n.cfg.Proxies, Dialer: n.dialer, Pin: m.Pin(), Cluster: id.Cluster, ID: id.ID, Key: m.Key(), Version: n.cfg.Version, Now: n.cfg.Now, Log: n.cfg.Log,
		Cert: func() (*tls.Certificate, error) { return m.TLSCertificate() },
		Handle: func(ctx context.Context, conn net.Conn, h tunnel.Header, proxy string) {
			server.Serve(ctx, conn, sshd.Origin{From: h.From, Proxy: proxy, Protocol: h.Protocol})
		},
		Rules: func(news tunnel.RulesPush) {
			if err := applyPush(keeper, news); err != nil {
				n.cfg.Log.Warn("pushed rules are not used", "err", err)
			}
		},
		Attached: func() { n.readyOnce.Do(func() { close(n.ready) }) },
	}
}

// applyPush takes a set, and then the head that came after it.
func applyPush(keeper *rules.Keeper, news tunnel.RulesPush) error {
	var whole, head error
	if news.Set != nil {
		whole = keeper.Offer(news.Set)
	}
	if news.Head != nil {
		head = keeper.Renew(news.Head)
	}
	return errors.Join(whole, head)
}

// join becomes a member. A cluster that cannot be reached is tried again, because a machine often starts
// before its network; every other fault needs a person. It returns no member and no error when ctx ended
// first.
func (n *Node) join(ctx context.Context) (*member.Member, error) {
	const firstRetry, lastRetry = time.Second, time.Minute
	for try := 0; ; try++ {
		addr := n.cfg.Proxies[try%len(n.cfg.Proxies)]
		m, err := member.LoadOrJoin(
			ctx,
			member.Config{
				Dir:       n.cfg.Dir,
				Kind:      identity.Node,
				AuthAddr:  addr,
				Fallbacks: n.cfg.Proxies,
				Dialer:    n.dialer,
				Token:     n.cfg.Token,
				Name:      n.cfg.Name,
				Labels:    n.cfg.Labels,
				Now:       n.cfg.Now,
				Log:       n.cfg.Log,
			},
		)
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
		wait := rand.N(min(firstRetry<<min(try, 6), lastRetry)) + firstRetry/2
		n.cfg.Log.Warn(
			"the cluster cannot be joined yet",
			"err",
			err,
			"remedy",
			fault.Remedy(err),
			"again",
			wait,
		)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, nil
		case <-timer.C:
		}
	}
}

// sendEvents hands events to auth; when it does not answer, the next try takes the next address.
func sendEvents(ctx context.Context, m *member.Member, list []audit.Event) error {
	_, err := authrpc.Call(ctx, m.Auth(), authrpc.SendEvents, authrpc.SendEventsRequest{Events: list})
	if fault.Is(err, fault.Unavailable) {
		m.TryNext()
	}
	return err
}
