// Package issue answers: which certificate does this evidence earn?
//
// It is the only room that imports ca. Evidence comes from the rooms that check it: login.Assured for people,
// join.Admitted for machines. What goes into a certificate comes from there, from the roles and from the
// machine's record; never from the caller. A renewal therefore only narrows.
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
	"github.com/threshold-access/threshold/auth/rules"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/ca"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// Config says what issuing needs; all of it is required.
type Config struct {
	CA      *ca.CA // its Recorder is a Recorder of this package
	State   *state.State
	Rules   *rules.Publisher
	Cluster string
	Now     func() time.Time
}

// Issuer issues certificates. It is safe for concurrent use.
type Issuer struct{ cfg Config }

// New makes an office.
func New(cfg Config) *Issuer { return &Issuer{cfg} }

// Recorder keeps issuance records in the state: it is what ca demands before it releases a certificate.
type Recorder struct{ State *state.State }

type eventsKey struct{}

// RecordIssuance commits the record, and in the same transaction the events that the issuance is part of.
func (r Recorder) RecordIssuance(ctx context.Context, rec ca.Record) error {
	b, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("encode issuance record: %w", err)
	}
	var events []audit.Event
	if e, ok := ctx.Value(eventsKey{}).(audit.Event); ok {
		e.Fields = map[string]string{
			"serial": strconv.FormatUint(uint64(rec.Serial), 10),
			"until":  rec.NotAfter.Format(time.RFC3339),
		}
		events = append(events, e)
	}
	return r.State.Issuances.AppendIssuance(ctx, b, events...)
}

// issue asks the CA; e, unless it has no code, is committed with the record.
func (o *Issuer) issue(ctx context.Context, r ca.Request, e audit.Event) (ca.Issued, error) {
	if e.Code != "" {
		ctx = context.WithValue(ctx, eventsKey{}, e)
	}
	out, err := o.cfg.CA.Issue(ctx, r)
	return out, unwrapExhausted(err)
}

// unwrapExhausted brings a full disk to the front: it says what to do better than that the record was not
// kept.
func unwrapExhausted(err error) error {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if f, ok := e.(*fault.Error); ok && f.Kind == fault.Exhausted {
			return fault.Wrap(err, f.Kind, f.Op, f.Msg, f.Remedy)
		}
	}
	return err
}

// ForLogin issues what a login has earned.
func (o *Issuer) ForLogin(ctx context.Context, a login.Assured) (authrpc.RedeemLoginResponse, error) {
	sshKey, service := a.Keys()
	return o.forUser(
		ctx,
		userLogin{
			who:     a.Who(),
			ssh:     sshKey,
			service: service,
			proxy:   a.Proxy().Name,
			from:    a.From(),
			longest: a.MaxTTL(),
		},
	)
}

// userLogin is what a login has established, and the keys it committed to.
type userLogin struct {
	who     identity.Identity
	ssh     ssh.PublicKey
	service crypto.PublicKey
	proxy   string // the login came by
	from    string // the browser's address, by the proxy's word
	longest time.Duration
}

// ttl is the life of the person's certificates.
func (p userLogin) ttl(policy access.Policy) time.Duration {
	ttl := policy.CertTTL(p.who)
	if p.longest > 0 {
		ttl = min(ttl, p.longest)
	}
	return ttl
}

// forUser issues both certificates of a person.
func (o *Issuer) forUser(ctx context.Context, p userLogin) (authrpc.RedeemLoginResponse, error) {
	policy, err := o.cfg.State.Policy(ctx)
	if err != nil {
		return authrpc.RedeemLoginResponse{}, err
	}
	authorities, err := o.cfg.Rules.Authorities(ctx)
	if err != nil {
		return authrpc.RedeemLoginResponse{}, err
	}
	logins := policy.Logins(p.who)
	e := audit.NewEvent(audit.CertIssued, p.who, o.cfg.Now())
	e.Proxy, e.From = p.proxy, p.from
	out, err := o.issue(ctx, ca.Request{
		Profile: ca.User, Identity: p.who, SSHKey: p.ssh, X509Key: p.service, Logins: logins, SourceAddress: p.who.SourceAddresses,
		Extensions: sshExtensions(policy, p.who), TTL: p.ttl(policy),
	}, e)
	if err != nil {
		return authrpc.RedeemLoginResponse{}, err
	}
	res := authrpc.RedeemLoginResponse{
		Identity:    out.Record.Identity,
		X509:        der(out.Chain),
		Logins:      logins,
		Authorities: authorities,
		Time:        o.cfg.Now().UTC(),
	}
	if out.SSH != nil {
		res.SSHCert = out.SSH.Marshal()
	}
	return res, nil
}

// sshExtensions are the extensions that the person's roles give reason for. What a node allows is decided
// there, by the same roles.
func sshExtensions(p access.Policy, who identity.Identity) []string {
	may := func(actions ...access.Action) bool {
		return slices.ContainsFunc(who.Roles, func(role string) bool {
			return slices.ContainsFunc(p[role].Allow, func(g access.Grant) bool {
				return len(g.Nodes) > 0 &&
					slices.ContainsFunc(
						actions,
						func(a access.Action) bool { return slices.Contains(g.Actions, string(a)) },
					)
			})
		})
	}
	var out []string
	if may(access.Shell) {
		out = append(out, "permit-pty")
	}
	if may(access.ForwardLocal, access.ForwardRemote) {
		out = append(out, "permit-port-forwarding")
	}
	if may(access.ForwardAgent) {
		out = append(out, "permit-agent-forwarding")
	}
	return out
}

// ForMachine issues a machine's host and service certificates for the keys on record.
func (o *Issuer) ForMachine(ctx context.Context, a join.Admitted) (authrpc.JoinResponse, error) {
	m := a.Machine()
	set, _, err := o.cfg.Rules.Current()
	if err != nil {
		return authrpc.JoinResponse{}, err
	}
	id, names := m.Identity(o.cfg.Cluster), o.hostNames(m)
	host, err := o.issue(
		ctx,
		ca.Request{Profile: ca.Host, Identity: id, SSHKey: a.SSHKey(), Names: names},
		audit.Event{},
	)
	if err != nil {
		return authrpc.JoinResponse{}, err
	}
	code := audit.CertIssued
	if a.Renewal() {
		code = audit.CertRenewed
	}
	now := o.cfg.Now().UTC()
	service, err := o.issue(
		ctx,
		ca.Request{Profile: ca.Service, Identity: id, X509Key: a.ServiceKey(), Names: names},
		audit.NewEvent(code, id, now),
	)
	if err != nil {
		return authrpc.JoinResponse{}, err
	}
	if a.Renewal() {
		if err := o.cfg.State.Machines.RecordRenewal(ctx, m.ID, now); err != nil {
			return authrpc.JoinResponse{}, err
		}
	}
	return authrpc.JoinResponse{
		Identity: service.Record.Identity,
		SSHCert:  host.SSH.Marshal(),
		X509:     der(service.Chain),
		Rules:    set,
		Time:     now,
	}, nil
}

// hostNames are what a machine may be reached by: a node by name and id, bare and under the cluster; a proxy
// also by its public names.
func (o *Issuer) hostNames(m state.Machine) []string {
	own := []string{m.Name, m.Name + "." + o.cfg.Cluster}
	if m.Kind == identity.Node {
		return append(own, string(m.ID), string(m.ID)+"."+o.cfg.Cluster)
	}
	return slices.Concat(own, m.Names)
}

// ForAuth issues a replica's own service certificate: what it shows at its port. The chain ends with the
// cluster root, so a pin is enough to verify it.
func (o *Issuer) ForAuth(
	ctx context.Context,
	id identity.Identity,
	key crypto.PublicKey,
) ([]*x509.Certificate, error) {
	out, err := o.issue(
		ctx,
		ca.Request{Profile: ca.Service, Identity: id, X509Key: key, Names: []string{id.Name}},
		audit.Event{},
	)
	return out.Chain, err
}

func der(chain []*x509.Certificate) [][]byte {
	out := make([][]byte, len(chain))
	for i, c := range chain {
		out[i] = c.Raw
	}
	return out
}
