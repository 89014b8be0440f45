// Package join answers: may this machine become a node or a proxy, and is this machine still the one that
// joined?
//
// A machine is admitted by a join token, within the limits that the token has, and by proof that it holds its
// key. From then on it is recognised by the key on record. While the token lives, the same machine may ask
// again with both, because the response may have been lost. Either way gives Admitted, the only thing for
// which auth/issue makes machine certificates. A request without a token that auth created writes nothing to
// the store.
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
	"slices"
	"strings"
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
	LockSet(ctx context.Context) (*state.LockSet, error)
	// NameTaken reports whether a machine of the kind may not have the name.
	NameTaken(ctx context.Context, name string, kind identity.Kind, now time.Time) (bool, error)
	Token(ctx context.Context, name string) (state.Stored[state.Token], error)
	TokenByHash(ctx context.Context, hash [sha256.Size]byte) (state.Stored[state.Token], error)
}

// Machines stores machines. state.Machines is one.
type Machines interface {
	// AddMachine stores the machine and its names, and counts it among those that joined with the token, all
	// or nothing. Fault Conflict: somebody took the name or used the token since they were read.
	AddMachine(
		ctx context.Context, m state.Machine, token state.Stored[state.Token], events ...audit.Event,
	) error
}

// Tokens stores join tokens. state.Tokens is one.
type Tokens interface {
	// AddToken returns the revision of the new record; fault Conflict if the name is taken.
	AddToken(ctx context.Context, name string, t state.Token, events ...audit.Event) (uint64, error)
	// CountRefusal counts in the token's record that the token was refused, and stores the events.
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

// Admitted is the evidence that a machine is a member of the cluster: it proved this with a join token or
// with its key on record. Only Admit, VerifyMember and Renew make one. The zero value, which they return
// with an error, is no evidence.
type Admitted struct {
	machine state.Machine
	ssh     ssh.PublicKey
	service crypto.PublicKey
	renewal bool // the machine was a member before this call
}

// Machine is the machine's record: its certificates say this and nothing else.
func (a Admitted) Machine() state.Machine { return a.machine }

// SSHKey is the host key on record.
func (a Admitted) SSHKey() ssh.PublicKey { return a.ssh }

// ServiceKey is the X.509 key on record.
func (a Admitted) ServiceKey() crypto.PublicKey { return a.service }

// Renewal reports whether the machine was a member before it asked.
func (a Admitted) Renewal() bool { return a.renewal }

const (
	op               = "join"
	newTokenRemedy   = "make a new one: tsh token create"
	updateRemedy     = "update the agent, then remove its data folder and join again"
	maxLabels        = 64   // of one machine; they must also fit into its certificates
	maxNames         = 32   // public names of a proxy, as in ca
	maxNameTries     = 1000 // names that are tried for one machine
	maxRegisterTries = 8    // commits that are tried for one machine, besides one for each use of its token
)

// Admit makes the machine that sent the request a member of the cluster, and returns it with its name and
// keys. Anyone may call it: the machine must show a valid join token and prove that it holds its service key.
// The machine is counted in the token's record in the same transaction that stores it. A machine that joined
// with this token already, and whose response was lost, gets its membership again.
//
// Faults: Denied for a token that is unknown, used up, or for another kind, name or public name, for a label
// that only an administrator gives, and for a proof that does not verify; Expired for a token that is too
// old; Invalid for a wrong clock, key, label or public name; Exhausted or Conflict if no name could be had. A
// request with an unknown token writes nothing to the store. The refusal of a token that auth created is
// recorded in the audit log.
func (s *Service) Admit(ctx context.Context, req authrpc.JoinRequest) (Admitted, error) {
	now := s.cfg.Now()
	parsed, err := authrpc.ParseToken(req.Token)
	if err != nil {
		return Admitted{}, tokenMalformed.Wrap(err, op, fault.Args{"why": err.Error()})
	}
	token, err := s.cfg.Reader.TokenByHash(ctx, parsed.Hash())
	if fault.Is(err, fault.NotFound) {
		return Admitted{}, tokenUnknown.New(op)
	}
	if err != nil {
		return Admitted{}, err
	}
	// admitAgain comes before checkToken, which would refuse the used token. That is safe: admitAgain returns
	// only a machine that used this token, only to the holder of that machine's keys, and stores nothing.
	if member, ok := s.admitAgain(ctx, token.Value, req, now); ok {
		return member, nil
	}
	if err := s.checkToken(ctx, token, now); err != nil {
		return Admitted{}, err
	}
	candidate, err := s.checkRequest(req, token.Value, now)
	if err != nil {
		return Admitted{}, s.recordRefusal(ctx, token, err)
	}
	return s.register(ctx, candidate, token, req)
}

// admitAgain returns the machine that joined with the token before, if the request comes from that machine:
// its response was lost. ok is false for any other request. The machine must show the token before it
// expires, send both keys on record and prove that it holds the service key. The name, labels and public
// names in the request change nothing on record.
func (s *Service) admitAgain(
	ctx context.Context,
	token state.Token,
	req authrpc.JoinRequest,
	now time.Time,
) (member Admitted, ok bool) {
	if !now.Before(token.Expires) {
		return Admitted{}, false
	}
	for _, joined := range token.Joined {
		onRecord, err := s.cfg.Reader.Machine(ctx, joined.ID)
		if err != nil { // removed since, or unreadable
			continue
		}
		machine := onRecord.Value
		if s.checkLocks(ctx, machine, now) != nil {
			continue
		}
		if !bytes.Equal(machine.SSHKey, req.SSHKey) || !bytes.Equal(machine.X509Key, req.X509Key) {
			continue
		}
		member, err = s.checkRequest(req, token, now) // this checks the proof
		if err != nil {
			return Admitted{}, false
		}
		member.machine, member.renewal = machine, true
		return member, true
	}
	return Admitted{}, false
}

// checkToken returns nil for a token that can still be used. One that is used up is fault Denied, one that
// has expired is fault Expired; the refusal is recorded.
func (s *Service) checkToken(ctx context.Context, token state.Stored[state.Token], now time.Time) error {
	var refusal error
	switch t := token.Value; {
	case t.UsedUp():
		last := t.Joined[len(t.Joined)-1].Time
		refusal = tokenUsed.New(op, fault.Args{"count": len(t.Joined), "time": formatTime(last)})
	case !now.Before(t.Expires):
		refusal = tokenExpired.New(op, fault.Args{"time": formatTime(t.Expires)})
	default:
		return nil
	}
	return s.recordRefusal(ctx, token, refusal)
}

// maxRefusals bounds the audit events about one token, so that whoever holds a used token cannot fill the
// audit log.
const maxRefusals = 5

// recordRefusal writes the audit event that a token of this cluster was refused, and returns the refusal for
// the client. It writes nothing after maxRefusals events. If the event cannot be stored, the client still
// gets the refusal; an error of the store other than a conflict is added to its text.
func (s *Service) recordRefusal(ctx context.Context, token state.Stored[state.Token], refusal error) error {
	// An internal error or a conflict with other machines says nothing against the token.
	refused := !fault.Is(refusal, fault.Internal) && !fault.Is(refusal, fault.Conflict)
	if !refused || token.Value.Refused >= maxRefusals {
		return refusal
	}
	nobody := identity.Identity{} // the machine has proved nothing
	e := audit.New(s.cfg.Now(), nobody, audit.JoinRefusal{
		Kind:   token.Value.Kind,
		Token:  token.Key,
		Reason: audit.Truncate(fault.Message(refusal)),
	})
	if err := s.cfg.Tokens.CountRefusal(ctx, token, e); err != nil && !fault.Is(err, fault.Conflict) {
		return fmt.Errorf("%w (and the refusal could not be recorded: %v)", refusal, err)
	}
	return refusal
}

// checkRequest checks everything in a join request but the name and the state of the token. It returns the
// machine as it would be stored, with a new id and without a name, and stores nothing. Its result is no
// evidence yet: it becomes that when register has stored it, or when admitAgain has found the machine on
// record.
//
// What the token does not admit, a wrong proof, and public names of a node are fault Denied; anything else
// that is wrong is fault Invalid.
func (s *Service) checkRequest(
	req authrpc.JoinRequest,
	token state.Token,
	now time.Time,
) (Admitted, error) {
	if req.Kind != token.Kind {
		return Admitted{}, tokenOfOtherKind.New(op, fault.Args{"token_kind": token.Kind, "kind": req.Kind})
	}
	if err := checkClock(req.Time, now); err != nil {
		return Admitted{}, err
	}
	candidate, err := parseKeys(req.SSHKey, req.X509Key)
	if err != nil {
		return Admitted{}, machineKeysRefused.Wrap(err, op, fault.Args{"why": err.Error()})
	}
	if err := checkProof(req, candidate.service); err != nil {
		return Admitted{}, err
	}
	if err := checkLimits(req, token); err != nil {
		return Admitted{}, err
	}
	labels := identity.Labels{}
	maps.Copy(labels, req.Labels) // these begin with identity.SelfPrefix, and those of the token do not
	maps.Copy(labels, token.Labels)
	candidate.machine = state.Machine{
		ID:      identity.MachineID(state.NewID()),
		Kind:    req.Kind,
		Labels:  labels,
		SSHKey:  req.SSHKey,
		X509Key: req.X509Key,
		Names:   req.PublicNames,
		Created: now.UTC(),
		Renewed: now.UTC(),
	}
	if err := s.checkMachine(&candidate.machine); err != nil {
		return Admitted{}, err
	}
	return candidate, nil
}

// checkClock returns fault Invalid if the machine's clock differs from auth's by more than identity.Skew.
// With such a clock the machine would later take its own certificates for expired or not yet valid, which is
// hard to diagnose.
func checkClock(machine, auth time.Time) error {
	off := machine.Sub(auth)
	if off.Abs() <= identity.Skew {
		return nil
	}
	direction := "ahead"
	if off < 0 {
		direction = "behind"
	}
	return machineClockWrong.New(op, fault.Args{
		"machine_time": formatTime(machine),
		"auth_time":    formatTime(auth),
		"off":          off.Abs().Round(time.Second),
		"direction":    direction,
	})
}

func formatTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// parseKeys parses and checks a machine's two public keys: the SSH one in wire format, the X.509 one in
// PKIX. The result has the keys and no machine.
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

// checkProof checks the machine's signature over the token and both keys. It proves that the machine holds
// the service key, and that nobody has put another token or host key into its request. Else it returns fault
// Denied.
func checkProof(req authrpc.JoinRequest, key crypto.PublicKey) error {
	pub, ok := key.(*ecdsa.PublicKey)
	sum := authrpc.JoinProof(req.Token, req.SSHKey, req.X509Key)
	if !ok || !ecdsa.VerifyASN1(pub, sum[:], req.Proof) {
		return machineKeyUnproven.New(op)
	}
	return nil
}

// checkLimits returns fault Denied for labels and public names that a machine with this token may not have.
func checkLimits(req authrpc.JoinRequest, token state.Token) error {
	for label := range req.Labels {
		if !strings.HasPrefix(label, identity.SelfPrefix) {
			return labelNotOwn.New(op, fault.Args{"label": label, "prefix": identity.SelfPrefix})
		}
	}
	if token.Kind != identity.Proxy {
		return nil // checkMachine refuses public names of a node
	}
	for _, public := range req.PublicNames {
		if !slices.Contains(token.PublicNames, public) {
			return publicNameNotInToken.New(op, fault.Args{
				"name":  public,
				"names": strings.Join(token.PublicNames, ", "),
			})
		}
	}
	return nil
}

// register chooses the machine's name, stores the machine and counts it in the token's record. candidate
// comes from checkRequest and has no name yet. Another machine may take the name or use the token between the
// read and the commit; register then reads both again and tries again, as often as other machines may use the
// token and maxRegisterTries times more. It returns the member with its name, or a fault: Denied or Expired
// (the token cannot be used any more, or not for this name, or a public name is the name of a node),
// Exhausted (no name is free), Conflict (no try succeeded).
func (s *Service) register(
	ctx context.Context,
	candidate Admitted,
	token state.Stored[state.Token],
	req authrpc.JoinRequest,
) (Admitted, error) {
	var err error
	for range maxRegisterTries + token.Value.Uses {
		machine := &candidate.machine
		if machine.Name, err = s.chooseName(ctx, *machine, req.Name, token.Value.NamePattern); err != nil {
			return Admitted{}, s.recordRefusal(ctx, token, err)
		}
		e := audit.New(machine.Created, machine.Identity(s.cfg.Cluster), audit.Join{
			Kind:  machine.Kind,
			Token: token.Key,
			By:    token.Value.By,
		})
		err = s.cfg.Machines.AddMachine(ctx, *machine, token, e)
		if !fault.Is(err, fault.Conflict) {
			break // stored, or an error that another try does not mend
		}
		if token, err = s.cfg.Reader.Token(ctx, token.Key); err != nil {
			return Admitted{}, err
		}
		// The same machine may have sent its request twice, and the other one was stored first.
		if member, ok := s.admitAgain(ctx, token.Value, req, s.cfg.Now()); ok {
			return member, nil
		}
		if err := s.checkToken(ctx, token, s.cfg.Now()); err != nil {
			return Admitted{}, err
		}
		err = joinConflict.New(op)
	}
	if err != nil {
		return Admitted{}, s.recordRefusal(ctx, token, err)
	}
	return candidate, nil
}

// VerifyMember returns the caller's record as evidence, if the caller is a machine on record that is not
// locked, and its certificate is for the service key on record. Otherwise it returns fault Denied. auth/api
// calls it for every request of a machine, because a certificate stays valid for hours after the machine was
// removed.
func (s *Service) VerifyMember(ctx context.Context, caller authrpc.Caller) (Admitted, error) {
	notMember := machineNotMember.New(op, fault.Args{"kind": caller.Kind, "name": caller.Name})
	onRecord, err := s.cfg.Reader.Machine(ctx, caller.ID)
	if fault.Is(err, fault.NotFound) {
		return Admitted{}, notMember
	}
	if err != nil {
		return Admitted{}, err
	}
	if onRecord.Value.Kind != caller.Kind {
		return Admitted{}, notMember
	}
	member, err := parseKeys(onRecord.Value.SSHKey, onRecord.Value.X509Key)
	if err != nil {
		return Admitted{}, fmt.Errorf("read the keys on record: %w", err)
	}
	if key, ok := member.service.(*ecdsa.PublicKey); !ok || !key.Equal(caller.Key) {
		return Admitted{}, notMember
	}
	member.machine, member.renewal = onRecord.Value, true
	if err := s.checkLocks(ctx, member.machine, s.cfg.Now()); err != nil {
		return Admitted{}, err
	}
	return member, nil
}

// checkLocks returns fault Denied, which says why, if the machine is locked.
func (s *Service) checkLocks(ctx context.Context, machine state.Machine, now time.Time) error {
	set, err := s.cfg.Reader.LockSet(ctx)
	if err != nil {
		return err
	}
	if lock, locked := set.Locks.MachineDenied(machine.ID, now); locked {
		denial := lock.Denial(fmt.Sprintf("the %s %s", machine.Kind, machine.Name))
		return machineLocked.New(op, fault.Args{"reason": denial.Reason, "hint": denial.Remedy})
	}
	return nil
}

// VerifyForwarded returns the name of the proxy that signed a forwarded address. It returns fault Denied if
// the signature is not by a proxy on record, and fault NotFound if there is no machine of the stated id.
func (s *Service) VerifyForwarded(ctx context.Context, from authrpc.ForwardedFrom) (string, error) {
	signer, err := s.cfg.Reader.Machine(ctx, from.ProxyID)
	if err != nil {
		return "", err
	}
	key, err := x509.ParsePKIXPublicKey(signer.Value.X509Key)
	if err != nil || signer.Value.Kind != identity.Proxy || !from.Verify(key) {
		return "", forwardedAddressUnsigned.New("join.VerifyForwarded")
	}
	return signer.Value.Name, nil
}

// Renew is VerifyMember for a machine that asks for new certificates. A wrong clock of the machine is fault
// Invalid.
func (s *Service) Renew(
	ctx context.Context,
	caller authrpc.Caller,
	req authrpc.RenewRequest,
) (Admitted, error) {
	member, err := s.VerifyMember(ctx, caller)
	if err != nil {
		return Admitted{}, err
	}
	if err := checkClock(req.Time, s.cfg.Now()); err != nil {
		return Admitted{}, err
	}
	return member, nil
}
