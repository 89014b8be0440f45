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

// Rules gives what is returned together with certificates: machines get all signed rules, users only the
// authorities documents of them. rules.Publisher is one.
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

// RecordIssuance commits the issuance record, and in the same transaction the audit event that issue put into
// ctx, if any. It returns nil only when both are durable.
func (r Recorder) RecordIssuance(ctx context.Context, record ca.Record) error {
	encoded, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("encode issuance record: %w", err)
	}
	var events []audit.Event
	if e, ok := ctx.Value(eventKey{}).(audit.Event); ok {
		e.Fields = map[string]string{
			"serial": strconv.FormatUint(uint64(record.Serial), 10),
			"until":  record.NotAfter.Format(time.RFC3339),
		}
		events = append(events, e)
	}
	return r.Log.AppendIssuance(ctx, encoded, events...)
}

// issue asks the CA for certificates. The event e is committed together with the issuance record;
// RecordIssuance sets its Fields. The zero event means that the issuance has no event of its own.
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
			return f.Because(err)
		}
	}
	return err
}

// ForLogin issues the certificates of a finished login.
func (i *Issuer) ForLogin(ctx context.Context, assured login.Assured) (authrpc.RedeemLoginResponse, error) {
	sshKey, x509Key := assured.Keys()
	return i.forUser(ctx, userLogin{
		who:     assured.Who(),
		sshKey:  sshKey,
		x509Key: x509Key,
		proxy:   assured.Proxy().Name,
		from:    assured.From(),
		maxTTL:  assured.MaxTTL(),
	})
}

// userLogin is what a login has established. The keys were fixed when the login began.
type userLogin struct {
	who     identity.Identity
	sshKey  ssh.PublicKey
	x509Key crypto.PublicKey
	proxy   string        // the name of the proxy that served the login pages
	from    string        // the browser's address, as that proxy saw it
	maxTTL  time.Duration // zero: only the roles limit the lifetime
}

// ttl is the lifetime of the user's certificates.
func (u userLogin) ttl(policy access.Policy) time.Duration {
	ttl := access.CertTTL(policy, u.who)
	if u.maxTTL > 0 {
		ttl = min(ttl, u.maxTTL)
	}
	return ttl
}

// forUser issues a user's SSH and X.509 certificates, both in one issuance, and returns them with what tsh
// needs to use them: the logins and the authorities documents. A user whose roles grant no login gets the
// X.509 certificate alone; SSHCert is then nil. The issuance and its audit event are committed before forUser
// returns.
func (i *Issuer) forUser(ctx context.Context, finished userLogin) (authrpc.RedeemLoginResponse, error) {
	policy, err := i.cfg.Policies.Policy(ctx)
	if err != nil {
		return authrpc.RedeemLoginResponse{}, err
	}
	authorities, err := i.cfg.Rules.Authorities(ctx)
	if err != nil {
		return authrpc.RedeemLoginResponse{}, err
	}
	logins := access.Logins(policy, finished.who)
	e := audit.NewEvent(audit.CertIssued, finished.who, i.cfg.Now())
	e.Proxy, e.From = finished.proxy, finished.from
	issued, err := i.issue(ctx, ca.Request{
		Profile:       ca.User,
		Identity:      finished.who,
		SSHKey:        finished.sshKey,
		X509Key:       finished.x509Key,
		Logins:        logins,
		SourceAddress: finished.who.SourceAddresses,
		Extensions:    access.Extensions(policy, finished.who),
		TTL:           finished.ttl(policy),
	}, e)
	if err != nil {
		return authrpc.RedeemLoginResponse{}, err
	}
	res := authrpc.RedeemLoginResponse{
		Identity:    issued.Record.Identity,
		X509:        encodeChain(issued.Chain),
		Logins:      logins,
		Authorities: authorities,
		Time:        i.cfg.Now().UTC(),
	}
	if issued.SSH != nil {
		res.SSHCert = issued.SSH.Marshal()
	}
	return res, nil
}

// ForMachine issues a machine's host and service certificates for the keys on record, and returns them with
// the signed rules. For a member that renews, it also stores the time of the renewal. It returns fault
// Unavailable before the first rules are signed; nothing is issued then.
func (i *Issuer) ForMachine(ctx context.Context, member join.Admitted) (authrpc.JoinResponse, error) {
	machine := member.Machine()
	set, _, err := i.cfg.Rules.Current()
	if err != nil {
		return authrpc.JoinResponse{}, err
	}
	id, names := machine.Identity(i.cfg.Cluster), i.hostNames(machine)
	hostRequest := ca.Request{Profile: ca.Host, Identity: id, SSHKey: member.SSHKey(), Names: names}
	noEvent := audit.Event{} // the event of the service certificate counts for both
	host, err := i.issue(ctx, hostRequest, noEvent)
	if err != nil {
		return authrpc.JoinResponse{}, err
	}
	code := audit.CertIssued
	if member.Renewal() {
		code = audit.CertRenewed
	}
	now := i.cfg.Now().UTC()
	serviceRequest := ca.Request{
		Profile:  ca.Service,
		Identity: id,
		X509Key:  member.ServiceKey(),
		Names:    names,
	}
	service, err := i.issue(ctx, serviceRequest, audit.NewEvent(code, id, now))
	if err != nil {
		return authrpc.JoinResponse{}, err
	}
	if member.Renewal() {
		if err := i.cfg.Renewals.RecordRenewal(ctx, machine.ID, now); err != nil {
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
	noEvent := audit.Event{} // the issuance record is enough: no machine or user got anything
	out, err := i.issue(ctx, r, noEvent)
	return out.Chain, err
}

func encodeChain(chain []*x509.Certificate) [][]byte {
	out := make([][]byte, len(chain))
	for i, c := range chain {
		out[i] = c.Raw
	}
	return out
}
