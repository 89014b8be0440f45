package login

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"net"
	"net/netip"
	"time"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/limit"
)

const opHeadless = "login.Headless"

const (
	// HeadlessLife is the longest life of certificates that a headless login earns.
	HeadlessLife = time.Hour
	// headlessEvery is how often a waiting tsh asks.
	headlessEvery = 2 * time.Second
	// Codes for people's eyes are of letters that are no vowels and not mistaken for digits: RFC 8628 section
	// 6.1. Two groups of four.
	codeLetters = "BCDFGHJKLMNPQRSTVWXZ"
	codeGroup   = 4
)

// headlessHandle is a login that a machine without a browser asks for. It lives in the link that a person
// opens somewhere else, sealed: nothing of it is stored before that person has shown a second factor.
type headlessHandle struct {
	Challenge string     `json:"c"`
	From      netip.Addr `json:"f"` // the machine
	Code      string     `json:"k"` // shown in the terminal and in the browser
	Expires   time.Time  `json:"e"`
}

func (h *headlessHandle) ends() time.Time { return h.Expires }

// network is what the certificates of such a login are pinned to.
func (h *headlessHandle) network() netip.Prefix { return limit.Network(h.From.String()) }

// prompt is what the browser shows of it.
func (h *headlessHandle) prompt() *authrpc.Headless {
	return &authrpc.Headless{From: h.From.String(), Code: h.Code, Expires: h.Expires}
}

// BeginHeadless seals a handle for the machine that asks. It stores nothing.
func (s *Service) BeginHeadless(
	by authrpc.Caller,
	req authrpc.BeginHeadlessRequest,
) (authrpc.BeginHeadlessResponse, error) {
	res, err := s.beginHeadless(by.Addr, req)
	if err != nil {
		s.refusals.record(headless, by.Identity, addrString(by.Addr), err)
	}
	return res, err
}

func (s *Service) beginHeadless(
	from net.Addr,
	req authrpc.BeginHeadlessRequest,
) (res authrpc.BeginHeadlessResponse, err error) {
	if !challengeRE.MatchString(req.Challenge) {
		return res, fault.New(
			fault.Invalid,
			opHeadless,
			"the challenge is malformed",
			"update tsh, then start again: tsh login --headless",
		)
	}
	at, err := netip.ParseAddrPort(addrString(from))
	if err != nil {
		return res, fault.Wrap(
			err,
			fault.Internal,
			opHeadless,
			"the address of this machine is not known",
			"log in with a browser: tsh login",
		)
	}
	h := headlessHandle{
		Challenge: req.Challenge,
		From:      at.Addr().Unmap().WithZone(""),
		Code:      newDisplayCode(),
		Expires:   s.cfg.Now().Add(AttemptLife).UTC().Truncate(time.Second),
	}
	res = authrpc.BeginHeadlessResponse{
		Code:         h.Code,
		From:         h.From.String(),
		Expires:      h.Expires,
		PollInterval: headlessEvery,
	}
	res.Handle, err = s.sealer.seal(opHeadless, stageHeadless, h)
	return res, err
}

func addrString(a net.Addr) string {
	if a == nil {
		return ""
	}
	return a.String()
}

func newDisplayCode() string {
	var out []byte
	for len(out) < 2*codeGroup+1 {
		if len(out) == codeGroup {
			out = append(out, '-')
		}
		var b [1]byte
		_, _ = rand.Read(b[:]) // crypto/rand never fails since Go 1.24
		if int(
			b[0],
		) < len(
			codeLetters,
		)*(256/len(codeLetters)) { // or else the first letters would come more often
			out = append(out, codeLetters[int(b[0])%len(codeLetters)])
		}
	}
	return string(out)
}

// headlessHash is where a headless login waits. Who asks for it must open the challenge, so there is no
// secret in it.
func headlessHash(challenge string) state.CodeHash {
	return sha256.Sum256([]byte("threshold headless login v1\x00" + challenge))
}

// storeHeadless stores what one person has approved. Of several who have the link, that is the first.
func (s *Service) storeHeadless(
	ctx context.Context,
	h *headlessHandle,
	p state.PendingLogin,
	e audit.Event,
) error {
	hash := headlessHash(h.Challenge)
	err := s.cfg.Logins.AddLogin(ctx, hash, p, e)
	if !fault.Is(err, fault.Conflict) {
		return err
	}
	if _, err := s.cfg.Logins.PendingLogin(ctx, hash); err == nil {
		return fault.New(
			fault.Expired,
			opHeadless,
			"this login was approved already",
			"start again: tsh login --headless",
		)
	}
	return err
}

// RedeemHeadless spends a headless login that a person has approved. It reports false while nobody has.
func (s *Service) RedeemHeadless(
	ctx context.Context,
	by authrpc.Caller,
	req authrpc.RedeemHeadlessRequest,
) (Assured, bool, error) {
	a, ok, err := s.redeemHeadless(ctx, by.Addr, req)
	if err != nil {
		s.refusals.record(headless, by.Identity, addrString(by.Addr), err)
	}
	return a, ok, err
}

func (s *Service) redeemHeadless(
	ctx context.Context,
	from net.Addr,
	req authrpc.RedeemHeadlessRequest,
) (Assured, bool, error) {
	keys, err := parseKeys(req.Keys)
	if err != nil {
		return Assured{}, false, err
	}
	var h headlessHandle
	if err := s.sealer.open(opHeadless, stageHeadless, req.Handle, s.cfg.Now(), &h); err != nil {
		return Assured{}, false, err
	}
	pinned := identity.Identity{SourceAddresses: []netip.Prefix{h.network()}}
	if err := pinned.CheckSourceAddress(from); err != nil {
		return Assured{}, false, fault.Wrap(
			err,
			fault.Denied,
			opHeadless,
			"this login was requested from another address: "+h.From.String(),
			"start again: tsh login --headless",
		)
	}
	l, err := s.cfg.Logins.PendingLogin(ctx, headlessHash(h.Challenge))
	if fault.Is(err, fault.NotFound) {
		return Assured{}, false, checkChallenge(
			h.Challenge,
			req.Keys,
		) // whoever cannot open the challenge learns nothing by asking
	}
	if err != nil {
		return Assured{}, false, err
	}
	a, err := s.redeemPending(ctx, l, keys, req.Keys)
	return a, err == nil, err
}
