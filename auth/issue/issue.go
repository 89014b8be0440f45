// Package issue answers: which certificate does this evidence earn?
//
// It is the only package, beside the root that wires it, that imports ca. Evidence comes from the packages
// that check it: login.Assured for users, join.Admitted for machines. What a certificate says comes from
// the evidence, from the roles and from the machine's record, never from the caller; a renewal therefore
// grants nothing new.
package issue

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/auth/join"
	"github.com/threshold-access/threshold/auth/login"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/ca"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	signed "github.com/threshold-access/threshold/internal/rules"
)

// Policies gives the roles in force. state.Reader is one.
type Policies interface {
	Policy(ctx context.Context) (access.Policy, error)
}

// Renewals records that a machine renewed its certificates. state.Machines is one.
type Renewals interface {
	RecordRenewal(ctx context.Context, id identity.MachineID, now time.Time, events ...audit.Event) error
}

// Rules gives what goes out together with certificates: the signed rules to machines, of them the authorities
// documents to users. rules.Publisher is one.
type Rules interface {
	Current() (signed.Set, <-chan struct{}, error)
	Authorities(ctx context.Context) ([]signed.Signed, error)
}

// IssuanceLog appends issuance records together with audit events. state.Issuances is one.
type IssuanceLog interface {
	AppendIssuance(ctx context.Context, record json.RawMessage, events ...audit.Event) error
}

// Config says what an issuer needs; all of it is required.
type Config struct {
	CA       *ca.CA // its Recorder is a Recorder of this package
	Policies Policies
	Renewals Renewals
	Rules    Rules
	Cluster  string
	Now      func() time.Time
}

// Issuer issues certificates. It is safe for concurrent use.
type Issuer struct{ cfg Config }

// New makes an issuer.
func New(cfg Config) *Issuer { return &Issuer{cfg} }

// Recorder implements ca.Recorder: it stores issuance records, which ca demands before it releases a
// certificate.
type Recorder struct{ Log IssuanceLog }

// eventKey is the context key under which issue passes an audit event through ca to RecordIssuance.
type eventKey struct{}

// RecordIssuance commits the record, and in the same transaction the event that issue put into ctx, if any.
func (r Recorder) RecordIssuance(ctx context.Context, rec ca.Record) error {
	b, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("encode issuance record: %w", err)
	}
	var events []audit.Event
	if e, ok := ctx.Value(eventKey{}).(audit.Event); ok {
		e.Fields = map[string]string{
			"serial": strconv.FormatUint(uint64(rec.Serial), 10),
			"until":  rec.NotAfter.Format(time.RFC3339),
		}
		events = append(events, e)
	}
	return r.Log.AppendIssuance(ctx, b, events...)
}

// issue asks the CA for certificates. The event e is committed together with the issuance record, unless
// it is the zero event; its Fields are set by RecordIssuance.
func (i *Issuer) issue(ctx context.Context, r ca.Request, e audit.Event) (ca.Issued, error) {
	if e.Code != "" {
		ctx = context.WithValue(ctx, eventKey{}, e)
	}
	out, err := i.cfg.CA.Issue(ctx, r)
	return out, unwrapExhausted(err)
}

// unwrapExhausted gives an error the message and remedy of the fault Exhausted in its chain, if there is one:
// "free space on the disk" helps more than "the record could not be kept".
func unwrapExhausted(err error) error {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if f, ok := e.(*fault.Error); ok && f.Kind == fault.Exhausted {
			return fault.Wrap(err, f.Kind, f.Op, f.Msg, f.Remedy)
		}
	}
	return err
}

// ForLogin issues the certificates of a finished login.
func (i *Issuer) ForLogin(ctx context.Context, a login.Assured) (authrpc.RedeemLoginResponse, error) {
	sshKey, x509Key := a.Keys()
	return i.forUser(ctx, userLogin{
		who:     a.Who(),
		sshKey:  sshKey,
		x509Key: x509Key,
		proxy:   a.Proxy().Name,
		from:    a.From(),
		maxTTL:  a.MaxTTL(),
	})
}

// userLogin is what a login has established, with the keys that it committed to.
type userLogin struct {
	who     identity.Identity
	sshKey  ssh.PublicKey
	x509Key crypto.PublicKey
	proxy   string        // the name of the proxy of the login
	from    string        // the browser's address, as that proxy saw it
	maxTTL  time.Duration // zero: only the roles limit the lifetime
}

// ttl is the lifetime of the user's certificates.
func (u userLogin) ttl(policy access.Policy) time.Duration {
	ttl := policy.CertTTL(u.who)
	if u.maxTTL > 0 {
		ttl = min(ttl, u.maxTTL)
	}
	return ttl
}

// forUser issues both certificates of a user. A user whose roles grant no login gets the X.509 one alone.
func (i *Issuer) forUser(ctx context.Context, u userLogin) (authrpc.RedeemLoginResponse, error) {
	policy, err := i.cfg.Policies.Policy(ctx)
	if err != nil {
		return authrpc.RedeemLoginResponse{}, err
	}
	authorities, err := i.cfg.Rules.Authorities(ctx)
	if err != nil {
		return authrpc.RedeemLoginResponse{}, err
	}
	logins := policy.Logins(u.who)
	e := audit.NewEvent(audit.CertIssued, u.who, i.cfg.Now())
	e.Proxy, e.From = u.proxy, u.from
	out, err := i.issue(ctx, ca.Request{
		Profile:       ca.User,
		Identity:      u.who,
		SSHKey:        u.sshKey,
		X509Key:       u.x509Key,
		Logins:        logins,
		SourceAddress: u.who.SourceAddresses,
		Extensions:    sshExtensions(policy, u.who),
		TTL:           u.ttl(policy),
	}, e)
	if err != nil {
		return authrpc.RedeemLoginResponse{}, err
	}
	res := authrpc.RedeemLoginResponse{
		Identity:    out.Record.Identity,
		X509:        encodeChain(out.Chain),
		Logins:      logins,
		Authorities: authorities,
		Time:        i.cfg.Now().UTC(),
	}
	if out.SSH != nil {
		res.SSHCert = out.SSH.Marshal()
	}
	return res, nil
}

// sshExtensions are the permit- extensions (OpenSSH PROTOCOL.certkeys) that some grant of the user's roles
// gives reason for. They are an upper bound: what is allowed on a node is decided there, by the same
// roles.
func sshExtensions(p access.Policy, who identity.Identity) []string {
	granted := func(actions ...access.Action) bool {
		for _, role := range who.Roles {
			for _, g := range p[role].Allow {
				for _, a := range actions {
					if len(g.Nodes) > 0 && slices.Contains(g.Actions, string(a)) {
						return true
					}
				}
			}
		}
		return false
	}
	var out []string
	if granted(access.Shell) {
		out = append(out, "permit-pty")
	}
	if granted(access.ForwardLocal, access.ForwardRemote) {
		out = append(out, "permit-port-forwarding")
	}
	if granted(access.ForwardAgent) {
		out = append(out, "permit-agent-forwarding")
	}
	return out
}

// ForMachine issues a machine's host and service certificates for the keys on record.
func (i *Issuer) ForMachine(ctx context.Context, a join.Admitted) (authrpc.JoinResponse, error) {
	m := a.Machine()
	set, _, err := i.cfg.Rules.Current()
	if err != nil {
		return authrpc.JoinResponse{}, err
	}
	id, names := m.Identity(i.cfg.Cluster), i.hostNames(m)
	hostRequest := ca.Request{Profile: ca.Host, Identity: id, SSHKey: a.SSHKey(), Names: names}
	host, err := i.issue(ctx, hostRequest, audit.Event{})
	if err != nil {
		return authrpc.JoinResponse{}, err
	}
	code := audit.CertIssued
	if a.Renewal() {
		code = audit.CertRenewed
	}
	now := i.cfg.Now().UTC()
	serviceRequest := ca.Request{Profile: ca.Service, Identity: id, X509Key: a.ServiceKey(), Names: names}
	service, err := i.issue(ctx, serviceRequest, audit.NewEvent(code, id, now))
	if err != nil {
		return authrpc.JoinResponse{}, err
	}
	if a.Renewal() {
		if err := i.cfg.Renewals.RecordRenewal(ctx, m.ID, now); err != nil {
			return authrpc.JoinResponse{}, err
		}
	}
	return authrpc.JoinResponse{
		Identity: service.Record.Identity,
		SSHCert:  host.SSH.Marshal(),
		X509:     encodeChain(service.Chain),
		Rules:    set,
		Time:     now,
	}, nil
}

// hostNames are the names in a machine's certificates: its name, bare and under the cluster; for a node
// also its id, in both forms; for a proxy also its public names.
func (i *Issuer) hostNames(m state.Machine) []string {
	own := []string{m.Name, m.Name + "." + i.cfg.Cluster}
	if m.Kind == identity.Node {
		return append(own, string(m.ID), string(m.ID)+"."+i.cfg.Cluster)
	}
	return slices.Concat(own, m.Names)
}

// ForAuth issues an auth replica's own service certificate, which it shows at its port. The chain ends
// with the cluster root, so that a client can verify it with the pin alone.
func (i *Issuer) ForAuth(
	ctx context.Context,
	id identity.Identity,
	key crypto.PublicKey,
) ([]*x509.Certificate, error) {
	r := ca.Request{Profile: ca.Service, Identity: id, X509Key: key, Names: []string{id.Name}}
	out, err := i.issue(ctx, r, audit.Event{})
	return out.Chain, err
}

func encodeChain(chain []*x509.Certificate) [][]byte {
	out := make([][]byte, len(chain))
	for i, c := range chain {
		out[i] = c.Raw
	}
	return out
}
