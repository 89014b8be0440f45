// Package join answers: may this machine become a node or a proxy, and is this machine still the one that
// joined?
//
// A machine is admitted once, by a join token and proof that it holds its key. From then on it is
// recognised by the key on record. While the token lives, the same machine may ask again with both,
// because the response may have been lost. Either way gives Admitted, the only thing for which auth/issue
// makes machine certificates. A request without a token that auth created writes nothing to the store.
package join

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"maps"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// Reader reads machines and join tokens. state.Reader is one.
type Reader interface {
	Machine(ctx context.Context, id identity.MachineID) (state.Stored[state.Machine], error)
	// NameTaken reports whether a machine of the kind may not have the name.
	NameTaken(ctx context.Context, name string, kind identity.Kind, now time.Time) (bool, error)
	Token(ctx context.Context, name string) (state.Stored[state.Token], error)
	TokenByHash(ctx context.Context, hash [sha256.Size]byte) (state.Stored[state.Token], error)
}

// Machines stores machines. state.Machines is one.
type Machines interface {
	// AddMachine stores the machine, its names and the use of the token, all or nothing.
	AddMachine(
		ctx context.Context, m state.Machine, spent state.Stored[state.Token], events ...audit.Event,
	) error
}

// Tokens stores join tokens. state.Tokens is one.
type Tokens interface {
	AddToken(ctx context.Context, name string, t state.Token, events ...audit.Event) (uint64, error)
	CountRefusal(ctx context.Context, old state.Stored[state.Token], events ...audit.Event) error
}

// Config says what the service needs; all of it is required.
type Config struct {
	Reader   Reader
	Machines Machines
	Tokens   Tokens
	Cluster  string
	Pin      identity.Pin // goes into tokens
	Now      func() time.Time
}

// Service admits machines, and verifies those that were admitted. It is safe for concurrent use.
type Service struct{ cfg Config }

// New makes a service.
func New(cfg Config) *Service { return &Service{cfg} }

// Admitted is a member of the cluster, shown by its token or by its key. Only Admit, VerifyMember and
// Renew make one.
type Admitted struct {
	machine state.Machine
	ssh     ssh.PublicKey
	service crypto.PublicKey
	renewal bool
}

// Machine is the machine's record: its certificates say this and nothing else.
func (a Admitted) Machine() state.Machine { return a.machine }

// SSHKey is the host key on record.
func (a Admitted) SSHKey() ssh.PublicKey { return a.ssh }

// ServiceKey is the X.509 key on record.
func (a Admitted) ServiceKey() crypto.PublicKey { return a.service }

// Renewal reports whether the machine was a member before.
func (a Admitted) Renewal() bool { return a.renewal }

const (
	op               = "join"
	newTokenRemedy   = "make a new one: tsh token create"
	updateRemedy     = "update the agent, then remove its data folder and join again"
	maxLabels        = 64   // of one machine; they must also fit into its certificates
	maxNames         = 32   // public names of a proxy, as in ca
	maxNameTries     = 1000 // names that are tried for one machine
	maxRegisterTries = 8    // commits that are tried for one machine
)

// Admit makes a member of a machine that shows a valid token and proves that it holds its key. The token
// is spent in the transaction that stores the machine. A token that auth never created is fault Denied,
// and nothing is stored about it.
func (s *Service) Admit(ctx context.Context, r authrpc.JoinRequest) (Admitted, error) {
	now := s.cfg.Now()
	parsed, err := authrpc.ParseToken(r.Token)
	if err != nil {
		return Admitted{}, fault.Wrap(err, fault.Denied, op, err.Error(), newTokenRemedy)
	}
	token, err := s.cfg.Reader.TokenByHash(ctx, parsed.Hash())
	if fault.Is(err, fault.NotFound) {
		return Admitted{}, fault.New(fault.Denied, op, "this join token is not known", newTokenRemedy)
	}
	if err != nil {
		return Admitted{}, err
	}
	if a, ok := s.admitAgain(ctx, token.Value, r, now); ok {
		return a, nil
	}
	if err := s.checkToken(ctx, token, now); err != nil {
		return Admitted{}, err
	}
	a, err := s.checkRequest(r, token.Value, now)
	if err != nil {
		return Admitted{}, s.recordRefusal(ctx, token, err)
	}
	return s.register(ctx, a, token, r)
}

// admitAgain admits a machine whose response was lost. It must show the token that it joined with, before
// that expires, and prove the keys that it joined with. The rest of the request is checked but changes
// nothing on record.
func (s *Service) admitAgain(
	ctx context.Context,
	t state.Token,
	r authrpc.JoinRequest,
	now time.Time,
) (Admitted, bool) {
	if t.UsedBy == "" || !now.Before(t.Expires) {
		return Admitted{}, false
	}
	m, err := s.cfg.Reader.Machine(ctx, t.UsedBy)
	if err != nil || !bytes.Equal(m.Value.SSHKey, r.SSHKey) || !bytes.Equal(m.Value.X509Key, r.X509Key) {
		return Admitted{}, false
	}
	a, err := s.checkRequest(r, t, now)
	a.machine, a.renewal = m.Value, true
	return a, err == nil
}

// checkToken refuses a token that was used or has expired, and records that.
func (s *Service) checkToken(ctx context.Context, token state.Stored[state.Token], now time.Time) error {
	t := token.Value
	var refusal error
	switch {
	case !t.Used.IsZero():
		msg := "this join token was used already, at " + formatTime(t.Used)
		refusal = fault.New(fault.Denied, op, msg, newTokenRemedy)
	case !now.Before(t.Expires):
		msg := "this join token expired at " + formatTime(t.Expires)
		refusal = fault.New(fault.Expired, op, msg, newTokenRemedy)
	default:
		return nil
	}
	return s.recordRefusal(ctx, token, refusal)
}

// maxRefusals bounds the audit events about one token, so that whoever holds a spent token cannot fill the
// audit log.
const maxRefusals = 5

// recordRefusal writes the audit event that a token of this cluster was refused, and returns the refusal. An
// event that is lost to a conflict or a full disk does not change what the client is told.
func (s *Service) recordRefusal(ctx context.Context, token state.Stored[state.Token], refusal error) error {
	if token.Value.Refused >= maxRefusals ||
		fault.Is(refusal, fault.Internal) || fault.Is(refusal, fault.Conflict) {
		return refusal
	}
	e := audit.Event{
		Code:   audit.JoinRefused,
		Time:   s.cfg.Now().UTC(),
		Reason: fault.Message(refusal),
		Fields: map[string]string{"token": token.Key, "kind": string(token.Value.Kind)},
	}
	if err := s.cfg.Tokens.CountRefusal(ctx, token, e); err != nil && !fault.Is(err, fault.Conflict) {
		return fmt.Errorf("%w (and the refusal could not be recorded: %v)", refusal, err)
	}
	return refusal
}

// checkRequest turns a request into a machine that has no name yet, or says what is wrong with it.
func (s *Service) checkRequest(r authrpc.JoinRequest, t state.Token, now time.Time) (Admitted, error) {
	if r.Kind != t.Kind {
		msg := fmt.Sprintf("this join token is for a %s, not for a %.20q", t.Kind, r.Kind)
		return Admitted{}, fault.New(fault.Denied, op, msg, newTokenRemedy)
	}
	if err := checkClock(r.Time, now); err != nil {
		return Admitted{}, err
	}
	a, err := parseKeys(r.SSHKey, r.X509Key)
	if err != nil {
		msg := "the machine's keys are not acceptable: " + err.Error()
		return Admitted{}, fault.Wrap(err, fault.Invalid, op, msg, updateRemedy)
	}
	if err := checkProof(r, a.service); err != nil {
		return Admitted{}, err
	}
	labels := identity.Labels{}
	maps.Copy(labels, r.Labels)
	maps.Copy(labels, t.Labels) // where both set a label, the administrator's value wins
	a.machine = state.Machine{
		ID:      identity.MachineID(state.NewID()),
		Kind:    r.Kind,
		Labels:  labels,
		SSHKey:  r.SSHKey,
		X509Key: r.X509Key,
		Names:   r.PublicNames,
		Created: now.UTC(),
		Renewed: now.UTC(),
	}
	return a, s.checkMachine(&a.machine)
}

// checkClock refuses a machine whose clock differs from auth's by more than identity.Skew. Its
// certificates would look expired or not yet valid to it, which is hard to understand later.
func checkClock(machine, auth time.Time) error {
	off := machine.Sub(auth)
	if off.Abs() <= identity.Skew {
		return nil
	}
	direction := "ahead"
	if off < 0 {
		direction = "behind"
	}
	msg := fmt.Sprintf("this machine's clock says %s, auth's says %s: it is %s %s",
		formatTime(machine), formatTime(auth), off.Abs().Round(time.Second), direction)
	remedy := "set this machine's clock (timedatectl set-ntp true), then start it again"
	return fault.New(fault.Invalid, op, msg, remedy)
}

func formatTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// parseKeys parses and checks a machine's two public keys: the SSH one in wire format, the X.509 one in
// PKIX. It sets nothing but the keys.
func parseKeys(sshKey, x509Key []byte) (a Admitted, err error) {
	if a.ssh, err = ssh.ParsePublicKey(sshKey); err != nil {
		return a, err
	}
	if err := identity.CheckSSHKey(a.ssh); err != nil {
		return a, err
	}
	if a.service, err = x509.ParsePKIXPublicKey(x509Key); err != nil {
		return a, err
	}
	return a, identity.CheckKey(a.service)
}

// checkProof checks the machine's signature over the token and both keys: it holds the service key, and means
// this token and this host key.
func checkProof(r authrpc.JoinRequest, key crypto.PublicKey) error {
	pub, ok := key.(*ecdsa.PublicKey)
	sum := authrpc.JoinProof(r.Token, r.SSHKey, r.X509Key)
	if !ok || !ecdsa.VerifyASN1(pub, sum[:], r.Proof) {
		return fault.New(fault.Denied, op, "the machine does not prove that it holds its key", updateRemedy)
	}
	return nil
}

// register chooses a name and stores the machine. Another machine may take the name or the token between
// reading and committing; register then reads again and tries again.
func (s *Service) register(
	ctx context.Context,
	a Admitted,
	token state.Stored[state.Token],
	r authrpc.JoinRequest,
) (Admitted, error) {
	wanted := r.Name
	if token.Value.Machine != "" {
		wanted = token.Value.Machine
	}
	var err error
	for range maxRegisterTries {
		if a.machine.Name, err = s.chooseName(ctx, a.machine, wanted); err != nil {
			return Admitted{}, s.recordRefusal(ctx, token, err)
		}
		e := audit.NewEvent(audit.MachineJoined, a.machine.Identity(s.cfg.Cluster), a.machine.Created)
		e.Fields = map[string]string{
			"kind":  string(a.machine.Kind),
			"token": token.Key,
			"by":    token.Value.By,
		}
		err = s.cfg.Machines.AddMachine(ctx, a.machine, token, e)
		if !fault.Is(err, fault.Conflict) {
			break
		}
		if token, err = s.cfg.Reader.Token(ctx, token.Key); err != nil {
			return Admitted{}, err
		}
		if same, ok := s.admitAgain(ctx, token.Value, r, s.cfg.Now()); ok {
			return same, nil
		}
		if err := s.checkToken(ctx, token, s.cfg.Now()); err != nil {
			return Admitted{}, err
		}
		msg := "other machines joined at the same moment"
		err = fault.New(fault.Conflict, op, msg, "start the machine again")
	}
	if err != nil {
		return Admitted{}, s.recordRefusal(ctx, token, err)
	}
	return a, nil
}

// VerifyMember checks that the caller is a machine on record and that its certificate is for the key on
// record. It is called for every request of a machine.
func (s *Service) VerifyMember(ctx context.Context, c authrpc.Caller) (Admitted, error) {
	m, err := s.cfg.Reader.Machine(ctx, c.ID)
	removed := fault.New(fault.Denied, op,
		fmt.Sprintf("the %s %s is not a member of this cluster any more", c.Kind, c.Name),
		"join again with a new token: tsh token create")
	if fault.Is(err, fault.NotFound) || err == nil && m.Value.Kind != c.Kind {
		return Admitted{}, removed
	}
	if err != nil {
		return Admitted{}, err
	}
	a, err := parseKeys(m.Value.SSHKey, m.Value.X509Key)
	if err != nil {
		return Admitted{}, fmt.Errorf("read the keys on record: %w", err)
	}
	if recorded, ok := a.service.(*ecdsa.PublicKey); !ok || !recorded.Equal(c.Key) {
		return Admitted{}, removed
	}
	a.machine, a.renewal = m.Value, true
	return a, nil
}

// VerifyForwarded checks that a forwarded address was signed by a proxy on record, and returns the proxy's
// name.
func (s *Service) VerifyForwarded(ctx context.Context, f authrpc.ForwardedFrom) (string, error) {
	m, err := s.cfg.Reader.Machine(ctx, f.ProxyID)
	if err != nil {
		return "", err
	}
	key, err := x509.ParsePKIXPublicKey(m.Value.X509Key)
	if err != nil || m.Value.Kind != identity.Proxy || !f.Verify(key) {
		return "", fault.New(fault.Denied, "join.VerifyForwarded",
			"the forwarded address is not signed by a proxy of this cluster",
			"connect through a proxy of this cluster")
	}
	return m.Value.Name, nil
}

// Renew is VerifyMember for a machine that asks for new certificates: its clock must be right, too.
func (s *Service) Renew(ctx context.Context, c authrpc.Caller, r authrpc.RenewRequest) (Admitted, error) {
	a, err := s.VerifyMember(ctx, c)
	if err != nil {
		return Admitted{}, err
	}
	return a, checkClock(r.Time, s.cfg.Now())
}
