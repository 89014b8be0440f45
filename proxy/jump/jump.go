// Package jump answers: which caller, which node?
//
// Two fronts lead to nodes: the dial protocol of tsh, and SSH for a stock "ssh -J". Both end in reach, which
// decides early and in friendly words whether this person may reach that node; the node decides again and
// finally. What follows is copied: it is SSH between client and node, end to end, and nothing here can read
// it.
package jump

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/internal/tunnel"
)

// openTimeout bounds the way to a node, auth's answer included.
const openTimeout = 10 * time.Second

// NodeDialer leads to attached nodes.
type NodeDialer interface {
	Find(node string) (access.Node, bool)
	Open(ctx context.Context, id identity.MachineID, h tunnel.Header) (net.Conn, error)
}

// Config says what the fronts need. All but Now is required.
type Config struct {
	Cluster    string
	Rules      interface{ Current() *rules.Trust }
	Nodes      NodeDialer
	Auth       *authrpc.Client
	HostSigner func() (ssh.Signer, error) // shown to ssh -J; it may change while running
	Now        func() time.Time           // zero: time.Now
	Log        *slog.Logger
}

// Server serves people's connections. It is safe for concurrent use.
type Server struct {
	cfg   Config
	users userQuota
}

// New makes the fronts.
func New(cfg Config) *Server {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Server{cfg: cfg, users: userQuota{counts: map[person]int{}}}
}

// caller is a verified person at an address.
type caller struct {
	identity.Identity
	from     net.Addr
	protocol string // the front, as tunnel.Header says it
}

// openNode opens a stream to the node for the caller, or says why not. Every error is a fault.
func (f *Server) openNode(ctx context.Context, who caller, name string) (net.Conn, access.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	now, trust := f.cfg.Now(), f.cfg.Rules.Current()
	if err := trust.Usable(now); err != nil {
		return nil, access.Node{}, fault.Wrap(
			err,
			fault.Unavailable,
			"proxy.reach",
			err.Error(),
			"ask an administrator to look at the proxy's link to auth",
		)
	}
	if !now.Before(who.Expires) {
		return nil, access.Node{}, fault.New(
			fault.Expired,
			"proxy.reach",
			"your certificate has ended",
			"run: tsh login",
		)
	}
	node, attached := f.findNode(name)
	if attached {
		d := access.Decide(trust.Policy, f.accessRequest(who, node, "", now))
		if d.Allow {
			conn, err := f.cfg.Nodes.Open(
				ctx,
				node.ID,
				tunnel.Header{V: tunnel.Version, From: who.from.String(), Protocol: who.protocol},
			)
			return conn, node, err
		}
		if access.Decide(trust.Policy, f.accessRequest(who, node, access.List, now)).Allow {
			return nil, node, fault.New(fault.Denied, "proxy.reach", d.Reason, d.Remedy)
		}
	}
	// One who may not know of a node hears, after the same question to auth, what one hears of a node that is
	// not there.
	return nil, node, f.explainFailure(ctx, who, name, trust, now)
}

// findNode looks for a whole name, then for name.cluster, then for an id; names are host names, so an id
// could only be one's whole name.
func (f *Server) findNode(name string) (access.Node, bool) {
	if n, ok := f.cfg.Nodes.Find(name); ok {
		return n, true
	}
	if short, ok := strings.CutSuffix(name, "."+f.cfg.Cluster); ok {
		return f.cfg.Nodes.Find(short)
	}
	return access.Node{}, false
}

func (f *Server) accessRequest(who caller, n access.Node, a access.Action, now time.Time) access.Request {
	from, _ := netip.ParseAddrPort(who.from.String()) // the zero Addr where it is not known
	return access.Request{Who: who.Identity, Node: n, Action: a, Now: now, From: from.Addr().Unmap()}
}

// explainFailure says why no stream could be opened: the node is away, the caller may not reach it, or there
// is none.
func (f *Server) explainFailure(
	ctx context.Context,
	who caller,
	name string,
	trust *rules.Trust,
	now time.Time,
) error {
	res, err := authrpc.Call(ctx, f.cfg.Auth, authrpc.LocateNode, authrpc.LocateNodeRequest{Node: name})
	if err != nil {
		return fault.Wrap(
			err,
			fault.Unavailable,
			"proxy.reach",
			"node "+displayName(name)+" is not attached to this proxy, and auth cannot be asked about it",
			"try again in a moment; if it stays so, ask an administrator to look at auth",
		)
	}
	for _, n := range res.Nodes {
		d := access.Decide(trust.Policy, f.accessRequest(who, n.Access(), "", now))
		listed := access.Decide(trust.Policy, f.accessRequest(who, n.Access(), access.List, now)).Allow
		switch {
		case d.Allow:
			return offlineFault(n)
		case listed:
			return fault.New(fault.Denied, "proxy.reach", d.Reason, d.Remedy)
		}
	}
	return fault.New(
		fault.NotFound,
		"proxy.reach",
		"no node "+displayName(name)+" that you may reach",
		"see: tsh ls",
	)
}

func offlineFault(n authrpc.NodeInfo) error {
	seen := "never seen"
	if !n.LastSeen.IsZero() {
		seen = "last seen " + n.LastSeen.UTC().Format(time.RFC3339)
	}
	if n.Online {
		return fault.New(
			fault.Unavailable,
			"proxy.reach",
			fmt.Sprintf("node %s is not attached to this proxy just now (%s)", n.Name, seen),
			"try again in a few seconds",
		)
	}
	return fault.New(fault.Unavailable, "proxy.reach", fmt.Sprintf("node %s is offline (%s)", n.Name, seen),
		"start threshold-node on it, or ask its administrator to")
}

// displayName repeats a name in an answer only when it is one; what else a client sent is quoted and cut.
func displayName(name string) string {
	if identity.CheckMachineName(name) == nil {
		return name
	}
	if len(name) > 64 {
		name = name[:64] + "…"
	}
	return fmt.Sprintf("%q", name)
}
