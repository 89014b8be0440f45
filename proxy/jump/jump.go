// Package jump answers: which caller, which node?
//
// Users reach nodes by two protocols: threshold-dial for tsh, and SSH for a stock "ssh -J". Both call
// openNode, which decides whether the user may reach the node. That decision comes early so that the user
// gets an explanation; the node decides again, and its decision counts. From then on bytes are relayed. They
// are SSH between client and node, end to end, and the proxy cannot read them.
package jump

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/limit"
	"github.com/threshold-access/threshold/internal/open"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/internal/tunnel"
	"github.com/threshold-access/threshold/internal/wire"
)

// openTimeout bounds opening a stream to a node, including a question to the auth service.
const openTimeout = 10 * time.Second

// NodeDialer opens streams to the nodes that have a tunnel to this proxy.
type NodeDialer interface {
	// Find returns the node with this exact name or id; ok is false when it has no tunnel here.
	Find(node string) (n access.Node, ok bool)
	// Open opens a stream whose first bytes are the header. features is what the node understands. Its errors
	// are faults.
	Open(
		ctx context.Context, id identity.MachineID, header tunnel.Header,
	) (conn net.Conn, features wire.Features, err error)
}

// Config says what the server needs. Every field is required, except Denied and Now.
type Config struct {
	Cluster string // the name of the cluster, which a node's name may end with
	// Proxy and ProxyID are name and id of this proxy. Nodes log them.
	Proxy   string
	ProxyID identity.MachineID
	Rules   open.Rules
	Nodes   NodeDialer
	Auth    *authrpc.Client
	// HostSigner returns the host key for ssh -J. It is called for each connection, as the key may change.
	HostSigner func() (ssh.Signer, error)
	// Denied is called with the relays that are open and no longer allowed, before they are ended. Nil: they
	// are logged.
	Denied func([]open.Denial)
	// Now is the clock. Nil means time.Now.
	Now func() time.Time
	Log *slog.Logger
}

// Server serves connections of users. Its methods may be called by several goroutines at once.
type Server struct {
	cfg   Config
	users limit.PerKey[identity.UserKey] // connections and channels of each user
	open  *open.Registry                 // relays
}

// New makes a server. It starts nothing: ServeDial and ServeSSH serve connections, Run decides about what is
// open.
func New(cfg Config) *Server {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Denied == nil {
		cfg.Denied = (&open.Log{Log: cfg.Log}).Denied
	}
	s := &Server{cfg: cfg}
	s.open = open.New(open.Config{Rules: cfg.Rules, Now: cfg.Now, Denied: s.denied, Allowed: allowedAgain})
	return s
}

// nodeStream is an open stream to a node.
type nodeStream struct {
	conn     net.Conn
	features wire.Features // what the node understands
	entry    *open.Entry   // whoever has the stream removes it when the stream has ended
}

// openNode opens a stream to the node called name, if the rules allow it. id is drawn for this stream. The
// errors are faults that say why there is none: Unavailable (the rules of this proxy are too old, or the node
// is offline), Expired (the caller's certificate), Denied, or NotFound.
//
// A caller who may not even list a node gets the answer for a node that does not exist. For such a node and
// for a missing one the auth service is asked first, so that neither the answer nor the time it takes tells
// whether the node exists. A timeout bounds the opening alone, not the stream.
//
// cut ends the relay that uses the stream, and with it ctx. It is called when the rules do not allow it any
// more. The caller calls it when the relay has ended.
func (s *Server) openNode(
	ctx context.Context, cut context.CancelFunc, who *caller, id identity.ConnectionID, name string,
) (stream nodeStream, err error) {
	const op = "proxy.openNode"
	over := ctx.Done()
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	defer func() {
		if err != nil {
			stream.entry.Remove()
			stream = nodeStream{}
		}
	}()
	if err := s.checkLocks(who); err != nil {
		return stream, err
	}
	node, attached := s.findNode(name)
	if attached {
		stream.entry = s.track(over, cut, who, node) // before the rules are read
	}
	now, trust := s.cfg.Now(), s.cfg.Rules.Current()
	if err := trust.Usable(now); err != nil {
		return stream, proxyRulesUnusable.Wrap(err, op, fault.Args{"why": err.Error()})
	}
	now = trust.Now(now)
	if !now.Before(who.Expires) {
		return stream, jumpCertificateExpired.New(op)
	}
	if attached {
		decision := trust.Policy.Decide(s.accessRequest(who, node, anyAction, trust, now))
		if decision.Allow {
			stream.conn, stream.features, err = s.cfg.Nodes.Open(ctx, node.ID, s.header(who, id))
			return stream, err
		}
		mayList := trust.Policy.Decide(s.accessRequest(who, node, access.List, trust, now)).Allow
		if mayList { // the caller knows the node anyway, so the true reason is safe to tell
			return stream, proxyAccessDenied.New(op, fault.Args{
				"reason": decision.Reason,
				"hint":   decision.Remedy,
			})
		}
	}
	stream.entry.Remove() // before the auth service is asked, which takes a while
	return stream, s.explainFailure(ctx, who, name, trust, now)
}

// checkLocks returns a fault for a caller whom a lock denies everything, whichever node is meant. It comes
// before the node is looked up, so that they read why, and learn nothing of nodes.
func (s *Server) checkLocks(who *caller) error {
	trust := s.cfg.Rules.Current()
	now := trust.Now(s.cfg.Now())
	request := s.accessRequest(who, access.Node{}, anyAction, trust, now)
	request.Target = access.Target{}
	lock, denied := trust.Policy.Locks.Denying(request)
	if !denied {
		return nil
	}
	decision := lock.Denial("access to every node")
	return proxyAccessDenied.New("proxy.openNode", fault.Args{
		"reason": decision.Reason,
		"hint":   decision.Remedy,
	})
}

// header is the header of a stream to a node's SSH server.
func (s *Server) header(who *caller, id identity.ConnectionID) tunnel.Header {
	return tunnel.Header{
		Service:    tunnel.SSH,
		From:       who.from,
		Protocol:   who.protocol,
		ProxyID:    s.cfg.ProxyID,
		Proxy:      s.cfg.Proxy,
		Connection: id,
		Features:   who.features,
	}
}

// findNode finds an attached node by its exact name, by name.cluster, or by its id.
func (s *Server) findNode(name string) (access.Node, bool) {
	if n, ok := s.cfg.Nodes.Find(name); ok {
		return n, true
	}
	if short, ok := strings.CutSuffix(name, "."+s.cfg.Cluster); ok {
		return s.cfg.Nodes.Find(short)
	}
	return access.Node{}, false
}

// anyAction is the action for the question whether the rules allow a caller at least one action on a node
// that needs a connection; listing the node needs none.
const anyAction access.Action = ""

// accessRequest returns the question whether the caller may do action on the node by the rules at the time
// now, which is that of Trust.Now.
func (s *Server) accessRequest(
	who *caller, node access.Node, action access.Action, trust *rules.Trust, now time.Time,
) access.Request {
	return access.Request{
		Who:    who.Identity,
		Serial: who.serial,
		Target: access.ToNode(node),
		Action: action,
		Now:    now,
		From:   who.from.Addr().Unmap(),
		Proxy:  s.cfg.ProxyID,

		RulesAge: now.Sub(trust.Head.Time),
	}
}

// explainFailure returns the fault that tells the caller why this proxy has no connection to the node called
// name. It asks the auth service for the nodes of that name, because a node may be attached to another proxy
// or to none. The fault is Unavailable if the caller may reach the node or the auth service does not answer,
// Denied if the caller may only list the node, and NotFound if there is none or the caller may not know of
// it. Of several nodes with the name, the first that the caller may know of counts.
func (s *Server) explainFailure(
	ctx context.Context, who *caller, name string, trust *rules.Trust, now time.Time,
) error {
	const op = "proxy.openNode"
	res, err := authrpc.Call(ctx, s.cfg.Auth, authrpc.LocateNode, authrpc.LocateNodeRequest{Node: name})
	if err != nil {
		return nodeNotAttachedAndAuthSilent.Wrap(err, op, fault.Args{"node": displayName(name)})
	}
	for _, node := range res.Nodes {
		decision := trust.Policy.Decide(s.accessRequest(who, node.Access(), anyAction, trust, now))
		mayList := trust.Policy.Decide(s.accessRequest(who, node.Access(), access.List, trust, now)).Allow
		switch {
		case decision.Allow:
			return offlineFault(op, node)
		case mayList:
			return proxyAccessDenied.New(op, fault.Args{"reason": decision.Reason, "hint": decision.Remedy})
		}
	}
	return nodeNotReachable.New(op, fault.Args{"node": displayName(name)})
}

// offlineFault says that a node which the caller may reach has no tunnel to this proxy. A node that is online
// has one to another proxy, and is about to attach here as well.
func offlineFault(op string, node authrpc.NodeInfo) error {
	seen := "never seen"
	if !node.LastSeen.IsZero() {
		seen = "last seen " + node.LastSeen.UTC().Format(time.RFC3339)
	}
	if node.Online {
		return nodeNotAttached.New(op, fault.Args{"node": node.Name, "seen": seen})
	}
	return nodeDetached.New(op, fault.Args{"node": node.Name, "seen": seen})
}

// displayName returns a name from a client in a form that is safe in logs and messages: a string that is not
// a valid node name is quoted and cut off after 64 bytes.
func displayName(name string) string {
	if identity.CheckMachineName(name) == nil {
		return name
	}
	if len(name) > 64 {
		name = name[:64] + "…"
	}
	return fmt.Sprintf("%q", name)
}
