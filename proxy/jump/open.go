package jump

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/open"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/internal/wire"
)

// Run decides again about every open relay, whenever the rules change, until ctx ends. It returns nil.
func (s *Server) Run(ctx context.Context) error { return s.open.Run(ctx) }

// caller is a verified user and how they are connected.
type caller struct {
	identity.Identity
	serial   identity.Serial // of the certificate
	from     netip.AddrPort  // the client's address; zero if it has no IP address
	protocol string          // "dial" or "ssh", for tunnel.Header
	features wire.Features   // what the client understands; none without a dial request

	digest [sha256.Size]byte // the SHA-256 of the certificate
	// verify verifies the certificate by the rules at a time, as it was verified when the caller connected.
	verify func(trust *rules.Trust, at time.Time) error
	// verifiedBy is the revision of the authorities by which verify was last called; zero: it was not. After
	// that the certificate can only have expired. It belongs to the goroutine of Registry.Run.
	verifiedBy rules.Revision
}

// dialCaller is the caller of the threshold-dial protocol, who understands features.
func (s *Server) dialCaller(user identity.Peer, from net.Addr, features wire.Features) *caller {
	who := &caller{Identity: user.Identity, from: addrPort(from), protocol: "dial", features: features}
	who.digest = sha256.Sum256(user.Cert.Raw)
	if n := user.Cert.SerialNumber; n != nil && n.IsUint64() {
		who.serial = identity.Serial(n.Uint64())
	}
	who.verify = func(trust *rules.Trust, at time.Time) error {
		chain, usage := []*x509.Certificate{user.Cert}, x509.ExtKeyUsageClientAuth
		roots := trust.Authorities.UserRoots
		_, err := identity.VerifyX509(chain, s.cfg.Cluster, roots, usage, at, identity.User)
		return err
	}
	return who
}

// sshCaller is the caller of ssh -J. key is the certificate.
func (s *Server) sshCaller(user identity.SSHUser, key ssh.PublicKey, from net.Addr) *caller {
	return &caller{
		Identity: user.Identity,
		serial:   user.Serial,
		from:     addrPort(from),
		protocol: "ssh",
		digest:   sha256.Sum256(key.Marshal()),
		verify: func(trust *rules.Trust, at time.Time) error {
			_, err := identity.VerifySSHUser(key, s.cfg.Cluster, trust.Authorities.UserSSH, from, at)
			return err
		},
	}
}

// addrPort returns an IP address with its port; zero for another address.
func addrPort(a net.Addr) netip.AddrPort {
	addr, _ := netip.ParseAddrPort(a.String())
	return addr
}

// openRelay is a caller's stream to a node, as the registry of what is open knows it.
type openRelay struct {
	server *Server
	caller *caller
	node   access.Node
	over   <-chan struct{}    // closed when the relay ends
	cut    context.CancelFunc // ends the relay

	mu    sync.Mutex  // guards timer
	timer *time.Timer // runs while the relay is denied; nil while it is allowed
}

// track registers that a stream to the node is about to be opened. cut ends the relay that uses it, and
// closes over. The rules are asked after that. The entry
// is removed when they refuse, or when the stream has ended.
func (s *Server) track(
	over <-chan struct{}, cut context.CancelFunc, who *caller, node access.Node,
) *open.Entry {
	use := open.Use{
		Certificate: who.digest,
		From:        who.from.Addr().Unmap(),
		Proxy:       s.cfg.ProxyID,
		Node:        node.ID,
		Action:      anyAction,
	}
	return s.open.Add(use, &openRelay{server: s, caller: who, node: node, over: over, cut: cut})
}

// User returns who has the relay open.
func (o *openRelay) User() open.User {
	return open.User{Identity: o.caller.Identity, Serial: o.caller.serial}
}

// Decide decides again about the relay, as openNode does before it opens one. But the certificate may have
// expired: the node ends the connection with it, unless the client has shown it a newer one, of which the
// proxy learns nothing.
func (o *openRelay) Decide(use open.Use, trust *rules.Trust, now time.Time) error {
	verified, err := o.decide(use, trust, now, o.caller.verifiedBy)
	o.caller.verifiedBy = verified
	return err
}

// decide is Decide for a certificate that was verified by the authorities of the revision verifiedBy. It
// returns the revision by which it is verified after that.
func (o *openRelay) decide(
	use open.Use, trust *rules.Trust, now time.Time, verifiedBy rules.Revision,
) (rules.Revision, error) {
	const op = "proxy.openRelay"
	if err := trust.Usable(now); err != nil {
		return verifiedBy, proxyRulesUnusable.Wrap(err, op, fault.Args{"why": err.Error()})
	}
	now = trust.Now(now)
	who, at := *o.caller, now
	if last := who.Expires.Add(-time.Second); now.After(last) {
		at = last
	}
	if revision := trust.Head.Docs[rules.AuthoritiesKind].Revision; revision != verifiedBy {
		if err := o.caller.verify(trust, at); err != nil {
			return verifiedBy, dialCertificateInvalid.Wrap(err, op, fault.Args{"why": err.Error()})
		}
		verifiedBy = revision
	}
	node := o.node
	if current, attached := o.server.cfg.Nodes.Find(string(use.Node)); attached {
		node = current // its labels may have changed
	}
	who.Expires = time.Time{} // see above
	decision := trust.Policy.Decide(o.server.accessRequest(&who, node, use.Action, trust, now))
	if !decision.Allow {
		return verifiedBy, proxyAccessDenied.New(op, fault.Args{
			"reason": decision.Reason,
			"hint":   decision.Remedy,
		})
	}
	return verifiedBy, nil
}

// cutDelay is how long a relay goes on that is not allowed any more. The node decides by the same rules at
// about the same time, and ends the session with a line that tells the person why, for which it takes up to
// a second. The proxy cannot write into the relay. It cuts what a node leaves open that is stolen, out of
// date, or cut off from the rules.
const cutDelay = 2 * time.Second

// denied starts the time after which the relays are cut. The registry calls it, and allowedAgain, from one
// goroutine.
func (s *Server) denied(denials []open.Denial) {
	s.cfg.Denied(denials)
	for _, d := range denials {
		for _, holder := range d.Holders {
			holder.(*openRelay).cutLater(d.Use)
		}
	}
}

// allowedAgain lets relays go on that were denied for less than cutDelay.
func allowedAgain(holders []open.Holder) {
	for _, holder := range holders {
		holder.(*openRelay).goOn()
	}
}

// cutLater cuts the relay after cutDelay, unless it is allowed then.
func (o *openRelay) cutLater(use open.Use) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.timer = time.AfterFunc(cutDelay, func() { o.cutDenied(use) })
}

// goOn forgets that the relay was denied.
func (o *openRelay) goOn() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.timer.Stop()
	o.timer = nil
}

// cutDenied cuts the relay if the rules still deny it. If they allow it, the registry may not know that yet,
// as when a lock has just ended, and would not report the next denial. So cutDenied asks again, until the
// registry knows and goOn is called.
func (o *openRelay) cutDenied(use open.Use) {
	select {
	case <-o.over:
		return
	default:
	}
	_, err := o.decide(use, o.server.cfg.Rules.Current(), o.server.cfg.Now(), rules.Revision{})
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.timer == nil:
	case err != nil:
		o.cut()
	default:
		o.timer.Reset(cutDelay)
	}
}
