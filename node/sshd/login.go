package sshd

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/internal/sshprofile"
)

// evidence is what a login proved. It reaches the connection only through the Permissions of the key that was
// accepted: a value kept beside them could belong to another key that the client offered (CVE-2024-45337).
type evidence struct {
	key   ssh.PublicKey // the certificate
	who   identity.SSHUser
	login identity.Login
}

type evidenceKey struct{}

func evidenceOf(p *ssh.Permissions) (evidence, bool) {
	if p == nil {
		return evidence{}, false
	}
	e, ok := p.ExtraData[evidenceKey{}].(evidence)
	return e, ok
}

// noCertificateError says that a login needs a certificate. The client is told once, on its last try, and
// only if it offered none: a client that holds many keys must not show an error to somebody who then gets in.
func (a *loginAttempt) noCertificateError(lastTry bool) error {
	err := fault.New(
		fault.Unauthenticated,
		"node",
		"this node accepts only certificates; your client offered none",
		"run: tsh login, then name the certificate to your client, or connect with: tsh ssh",
	)
	if !lastTry || a.explained {
		return err
	}
	a.explained = true
	return sshprofile.Banner(err)
}

// checkOffered looks at a key that the client has not proved to hold yet. It verifies the certificate and
// nothing else, so that a client which shows a certificate of somebody else learns nothing of what its owner
// may do.
func (s *Server) checkOffered(
	attempt *loginAttempt,
	m ssh.ConnMetadata,
	key ssh.PublicKey,
) (*ssh.Permissions, error) {
	if _, ok := key.(*ssh.Certificate); !ok {
		attempt.plainKeys++
		return nil, attempt.noCertificateError(attempt.plainKeys == sshprofile.MaxAuthTries)
	}
	attempt.explained = true
	trust, now, err := s.currentRules()
	if err != nil {
		return nil, sshprofile.Banner(err)
	}
	who, err := identity.VerifySSHUser(key, trust.Cluster, trust.Authorities.UserSSH, m.RemoteAddr(), now)
	if err != nil {
		s.cfg.Log.Info("certificate refused", "from", attempt.From, "proxy", attempt.Proxy, "err", err)
		return nil, sshprofile.Banner(certificateFault(err))
	}
	e := evidence{key: key, who: who, login: identity.Login(m.User())}
	return &ssh.Permissions{ExtraData: map[any]any{evidenceKey{}: e}}, nil
}

// checkProven decides about a client that has proved to hold the certificate.
func (s *Server) checkProven(
	attempt *loginAttempt,
	m ssh.ConnMetadata,
	p *ssh.Permissions,
) (*ssh.Permissions, error) {
	e, ok := evidenceOf(p)
	if !ok || e.login != identity.Login(m.User()) {
		return nil, errors.New("the accepted key carries no identity")
	}
	rule, err := s.admitLogin(e, clientAddr(attempt.From))
	if err != nil {
		attempt.refused = true
		s.auditRefusal(attempt.Origin, e, rule, "login", err)
		return nil, sshprofile.Banner(err)
	}
	return p, nil
}

// admitLogin admits a login that the certificate names, to which the rules allow any action at all, and for
// which this machine has an account. On a refusal rule names the rule that refused, if one did.
func (s *Server) admitLogin(e evidence, from netip.Addr) (rule string, err error) {
	if s.isDraining() {
		return "", s.stopReason.err
	}
	if err := identity.CheckLogin(e.login); err != nil {
		return "", fault.Wrap(
			err,
			fault.Invalid,
			"node",
			"the login is not a valid account name",
			"name an account of the node, as in ssh ACCOUNT@NODE",
		)
	}
	trust, now, err := s.currentRules()
	if err != nil {
		return "", err
	}
	d := s.decide(trust, e.who, e.login, "", now, from)
	if !d.Allow {
		return d.Rule, fault.New(fault.Denied, "node", d.Reason, d.Remedy)
	}
	_, err = s.cfg.Accounts.Admit(e.login)
	return d.Rule, err
}

// currentRules returns the rules in force and the current time. It fails while there are no rules, and when
// they are too old to decide by.
func (s *Server) currentRules() (*rules.Trust, time.Time, error) {
	t, now := s.cfg.Rules(), s.cfg.Now()
	if t == nil {
		return nil, now, fault.New(
			fault.Unavailable,
			"node",
			"this node has not received its access rules yet",
			"try again in a minute",
		)
	}
	if err := t.Usable(now); err != nil {
		return nil, now, fault.Wrap(
			err,
			fault.Unavailable,
			"node",
			"on this node, "+err.Error(),
			"ask an administrator to check the node's clock and its connection to the cluster",
		)
	}
	return t, now, nil
}

// loginActions are the actions of which one must be allowed for a login: all but listing the node.
var loginActions = slices.DeleteFunc(
	access.NodeActions(),
	func(a access.Action) bool { return a == access.List },
)

// decide asks the rules for one action. Without an action it asks whether any of loginActions is allowed; if
// none is, it returns a denial that names a rule, where there is one.
func (s *Server) decide(
	trust *rules.Trust,
	who identity.SSHUser,
	login identity.Login,
	action access.Action,
	now time.Time,
	from netip.Addr,
) access.Decision {
	if !who.HasLogin(login) {
		return access.Decision{
			Reason: fmt.Sprintf("the certificate of %s does not name the login %s (it names %s)",
				who, login, joinLogins(who.Logins)),
			Remedy: "use one of those logins; after a change of roles run: tsh login",
		}
	}
	id := s.cfg.Identity()
	req := access.Request{
		Who:    who.Identity,
		Node:   access.Node{ID: id.ID, Name: id.Name, Labels: id.Labels},
		Login:  login,
		Action: action,
		Now:    now,
		From:   from,
	}
	if action != "" {
		return access.Decide(trust.Policy, req)
	}
	var denial access.Decision
	for i, a := range loginActions {
		req.Action = a
		d := access.Decide(trust.Policy, req)
		if d.Allow {
			return d
		}
		if i == 0 || denial.Rule == "" && d.Rule != "" {
			denial = d
		}
	}
	return denial
}

func joinLogins(logins []identity.Login) string {
	out := make([]string, len(logins))
	for i, l := range logins {
		out[i] = string(l)
	}
	return strings.Join(out, ", ")
}

// certificateFault says what to do about a certificate that does not verify.
func certificateFault(err error) error {
	const renew = "run: tsh login"
	var expired *identity.ExpiredError
	switch {
	case !errors.As(err, &expired):
		return fault.Wrap(err, fault.Denied, "node", err.Error(), renew)
	case expired.Now.Before(expired.From):
		const remedy = "ask an administrator to set the node's clock"
		return fault.Wrap(err, fault.Denied, "node", "on this node, "+err.Error(), remedy)
	}
	return fault.Wrap(err, fault.Expired, "node", err.Error(), renew)
}

// clientAddr is the client's IP address for the rules, or the zero value if from is no address and port.
func clientAddr(from string) netip.Addr {
	ap, err := netip.ParseAddrPort(from)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}
