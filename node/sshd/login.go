package sshd

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/internal/sshprofile"
)

// evidence is what a login proved: which certificate the client holds, and which account it asked for. It
// reaches the connection only through the Permissions that x/crypto returns for the key that signed. A client
// may offer several keys: a value kept in a variable of the handshake could belong to another one
// (CVE-2024-45337).
type evidence struct {
	key   ssh.PublicKey    // the certificate
	who   identity.SSHUser // the user, as the certificate says
	login identity.Login   // the account, as the client asked for it

	// head and authorities name the rules by which the certificate was verified. The rules themselves are not
	// kept: they would stay in memory for as long as the connection.
	head        rules.Sequence
	authorities rules.Revision
}

// evidenceKey is the key of the evidence in ssh.Permissions.ExtraData.
type evidenceKey struct{}

// evidenceOf returns the evidence that checkOffered put into the permissions. ok is false if there is none.
func evidenceOf(p *ssh.Permissions) (proved evidence, ok bool) {
	if p == nil {
		return evidence{}, false
	}
	proved, ok = p.ExtraData[evidenceKey{}].(evidence)
	return proved, ok
}

// noCertificateError returns the error for a try to log in without a certificate. The error becomes a banner,
// which the client shows, only on the last try, only if no certificate was offered before, and only once: a
// client that offers many keys must not show an error to a user who then logs in with a later one.
func (a *loginAttempt) noCertificateError(lastTry bool) error {
	err := certificateNotOffered.New("node")
	if !lastTry || a.explained {
		return err
	}
	a.explained = true
	return a.bannerError(err)
}

// checkOffered decides whether the client may sign with the key that it offers. It accepts a certificate that
// verifies, and returns Permissions with the evidence. The client has not proved yet that it holds the key.
// So nothing else is checked and nothing is audited: a client that shows the certificate of somebody else
// learns nothing about what its owner may do.
func (s *Server) checkOffered(
	attempt *loginAttempt,
	meta ssh.ConnMetadata,
	key ssh.PublicKey,
) (*ssh.Permissions, error) {
	if _, isCertificate := key.(*ssh.Certificate); !isCertificate {
		attempt.plainKeys++
		lastTry := attempt.plainKeys == sshprofile.MaxAuthTries
		return nil, attempt.noCertificateError(lastTry)
	}
	attempt.explained = true // that the client offers no certificate would be wrong from now on
	trust, now, err := s.currentRules()
	if err != nil {
		return nil, attempt.bannerError(err)
	}
	who, err := identity.VerifySSHUser(key, trust.Cluster, trust.Authorities.UserSSH, meta.RemoteAddr(), now)
	if err != nil {
		s.cfg.Log.Info("certificate refused", "from", attempt.From, "proxy", attempt.Proxy,
			"connection", attempt.Connection, "err", err)
		return nil, attempt.bannerError(certificateFault(err))
	}
	offered := evidence{
		key:         key,
		who:         who,
		login:       identity.Login(meta.User()),
		head:        trust.Head.Sequence,
		authorities: authoritiesRevision(trust),
	}
	return &ssh.Permissions{ExtraData: map[any]any{evidenceKey{}: offered}}, nil
}

// checkProven decides about the login of a client that has proved to hold the certificate, by its signature.
// p is what checkOffered returned for this key; checkProven returns it if the login is admitted. Otherwise it
// audits the refusal, and the error is a banner with the reason: the owner of a certificate may know it.
func (s *Server) checkProven(
	attempt *loginAttempt,
	meta ssh.ConnMetadata,
	p *ssh.Permissions,
) (*ssh.Permissions, error) {
	proved, ok := evidenceOf(p)
	if !ok || proved.login != identity.Login(meta.User()) { // a client may name another login with each try
		return nil, errors.New("there is no evidence for the accepted key and this login")
	}
	rule, err := s.admitLogin(proved, attempt.Origin)
	if err != nil {
		attempt.refused = true
		s.auditRefusal(attempt.Origin, proved, rule, "login", err)
		return nil, attempt.bannerError(err)
	}
	return p, nil
}

// admitLogin returns nil if the user may log in: the certificate names the login, the rules allow at least
// one action as this login, and this machine has the account. It refuses every login while the server drains.
// rule names the rule that decided, and is empty if none did.
func (s *Server) admitLogin(proved evidence, origin Origin) (rule string, err error) {
	if s.isDraining() {
		return "", s.stopReason.err
	}
	if err := identity.CheckLogin(proved.login); err != nil {
		return "", accountNameMalformed.Wrap(err, "node")
	}
	trust, now, err := s.currentRules()
	if err != nil {
		return "", err
	}
	decision := s.decide(trust, proved.who, proved.login, anyAction, now, origin)
	if !decision.Allow {
		return decision.Rule, accessDenied.New("node", fault.Args{
			"reason": decision.Reason,
			"hint":   decision.Remedy,
		})
	}
	_, err = s.cfg.Accounts.Admit(proved.login) // last: whom the rules refuse learns of no account
	return decision.Rule, err
}

// currentRules returns the rules in force and the time to decide by: that of Config.Now, or that of the rules
// if they are from the future. The error is a fault of kind Unavailable: there are no rules yet, or they are
// too old to decide by.
func (s *Server) currentRules() (*rules.Trust, time.Time, error) {
	trust, now := s.cfg.Rules.Current(), s.cfg.Now()
	if trust == nil {
		return nil, now, nodeWithoutRules.New("node")
	}
	if err := trust.Usable(now); err != nil {
		return nil, now, nodeRulesUnusable.Wrap(err, "node", fault.Args{"why": err.Error()})
	}
	return trust, trust.Now(now), nil
}

// anyAction, in place of an action, asks whether at least one of loginActions is allowed.
const anyAction access.Action = ""

// loginActions are all actions except listing the node. A user for whom none of them is allowed cannot log
// in.
var loginActions = access.LoginActions()

// decide returns the decision of the rules in trust about one action of a user, as the account login on this
// node. It denies a login that the certificate does not name. For anyAction it returns the first of the
// decisions about loginActions that allows; if none does, it returns a denial, one that names a rule if there
// is one.
func (s *Server) decide(
	trust *rules.Trust,
	who identity.SSHUser,
	login identity.Login,
	action access.Action,
	now time.Time,
	origin Origin,
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
		Serial: who.Serial,
		Target: access.ToNode(access.Node{ID: id.ID, Name: id.Name, Labels: id.Labels}),
		Login:  login,
		Action: action,
		Now:    now,
		From:   origin.clientAddr(),
		Proxy:  origin.ProxyID,

		RulesAge: now.Sub(trust.Head.Time),
	}
	if action != anyAction {
		return trust.Policy.Decide(req)
	}
	var denial access.Decision
	for i, a := range loginActions {
		req.Action = a
		decision := trust.Policy.Decide(req)
		if decision.Allow {
			return decision
		}
		firstToNameRule := denial.Rule == "" && decision.Rule != ""
		if i == 0 || firstToNameRule {
			denial = decision
		}
	}
	return denial
}

// joinLogins returns the logins in one line, separated by commas.
func joinLogins(logins []identity.Login) string {
	out := make([]string, len(logins))
	for i, l := range logins {
		out[i] = string(l)
	}
	return strings.Join(out, ", ")
}

// certificateFault returns the fault for an error of identity.VerifySSHUser, with what the user should do.
// The kind is Expired for a certificate that has expired, and Denied for one that is not valid for other
// reasons. If a certificate is not valid yet, the node's clock is behind, and the remedy says so.
func certificateFault(err error) error {
	var expired *identity.ExpiredError
	switch {
	case !errors.As(err, &expired):
		return userCertificateInvalid.Wrap(err, "node", fault.Args{"why": err.Error()})
	case expired.Now.Before(expired.From):
		return nodeClockWrong.Wrap(err, "node", fault.Args{"why": err.Error()})
	}
	return userCertificateExpired.Wrap(err, "node", fault.Args{"why": err.Error()})
}

// clientAddr returns the client's IP address, for the rules.
func (o Origin) clientAddr() netip.Addr { return o.From.Addr().Unmap() }
