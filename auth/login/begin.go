package login

import (
	"context"
	"crypto/rand"
	"net/url"
	"regexp"
	"strconv"
	"time"

	"github.com/threshold-access/threshold/auth/oidc"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/identity"
)

const opBegin = "login.Begin"

// clientRequest is what tsh asked for at the beginning of a login. If the browser runs on tsh's own machine,
// Callback and State say where the browser brings the one-time code. Otherwise Headless is set and both are
// empty: tsh asks the auth service itself for the finished login.
type clientRequest struct {
	Challenge string           `json:"challenge"` // commits to tsh's verifier and keys: authrpc.Challenge
	Callback  string           `json:"callback,omitempty"`
	State     string           `json:"state,omitempty"`
	Host      state.ClientHost `json:"host,omitzero"` // of a headless login, as in its handle
	Headless  *headlessHandle  `json:"headless,omitempty"`
}

// headlessPrompt returns what the browser shows the user of a headless login, and nil for any other login.
func (c clientRequest) headlessPrompt() *authrpc.Headless {
	if c.Headless == nil {
		return nil
	}
	return c.Headless.prompt()
}

// begunAttempt is an attempt whose browser was sent to a provider. Only Begin makes one.
type begunAttempt struct {
	format
	ID      string        `json:"id"` // random; the identified attempt is stored under its hash
	Client  clientRequest `json:"client"`
	Flow    oidc.Flow     `json:"flow"` // what oidc.Providers.Finish checks the callback with
	Expires time.Time     `json:"expires"`
}

func (b *begunAttempt) expiresAt() time.Time { return b.Expires }

var (
	challengeRE = regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`) // base64 of a SHA-256
	stateRE     = regexp.MustCompile(`^[A-Za-z0-9._~-]{8,128}$`)
	// localeRE is BCP 47, as far as it matters here.
	localeRE = regexp.MustCompile(`^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8}){0,3}$`)
	// callbackRE is RFC 8252 section 7.3: the loopback interface by address, never by name, with a port that
	// tsh chose.
	callbackRE = regexp.MustCompile(`^http://(?:127\.0\.0\.1|\[::1\]):([1-9][0-9]{0,4})/callback$`)
)

// Bounds of what a browser sends, in bytes.
const (
	maxConnector = 64
	maxOrigin    = 300
)

// Begin starts a login attempt for a browser at the proxy by. The response has one of three forms:
//   - Redirect and Attempt: the provider's page, where the browser goes, and the sealed attempt, its cookie;
//   - Connectors: the request names no connector and there are several, so the user must choose one;
//   - Headless: the handle in the request is that of a headless login, which the user must confirm first.
//
// A malformed request gets fault Invalid. A caller that is no proxy, or an origin that is not one of the
// proxy's own, gets fault Denied.
func (s *Service) Begin(
	ctx context.Context, by identity.Identity, req authrpc.BeginLoginRequest,
) (authrpc.BeginLoginResponse, error) {
	res, err := s.begin(ctx, by, req)
	if err != nil {
		s.refusals.record(stepBegin, by, addrText(req.From), err)
	}
	return res, err
}

// begin does the work of Begin, which records the error.
func (s *Service) begin(
	ctx context.Context, by identity.Identity, req authrpc.BeginLoginRequest,
) (res authrpc.BeginLoginResponse, err error) {
	client, err := s.parseBegin(by, req)
	if err != nil {
		return res, err
	}
	// Someone else may have sent the user this link. The user compares the display code and the address
	// before they sign in, so a headless login goes on to a provider only after that.
	if client.Headless != nil && !req.Confirmed {
		return authrpc.BeginLoginResponse{Headless: client.headlessPrompt()}, nil
	}
	name, choices, err := s.chooseConnector(ctx, req.Connector)
	if err != nil {
		return res, err
	}
	if name == "" {
		return authrpc.BeginLoginResponse{Connectors: choices}, nil
	}
	redirect := req.PublicOrigin + authrpc.CallbackPath(name)
	flow, page, err := s.cfg.Providers.Start(ctx, name, redirect, req.Locale)
	if err != nil {
		return res, err
	}
	attempt := begunAttempt{
		format:  currentFormat,
		ID:      rand.Text(),
		Client:  client,
		Flow:    flow,
		Expires: s.cfg.Now().Add(AttemptLife).UTC(),
	}
	res = authrpc.BeginLoginResponse{Redirect: page, Expires: attempt.Expires}
	res.Attempt, err = s.sealer.seal(opBegin, stageBegun, attempt)
	return res, err
}

// parseBegin checks the whole request and returns what tsh asked for. For a headless login that comes from
// the sealed handle, otherwise from the fields of the request.
func (s *Service) parseBegin(by identity.Identity, req authrpc.BeginLoginRequest) (clientRequest, error) {
	if err := checkProxy(opBegin, by); err != nil {
		return clientRequest{}, err
	}
	if err := s.checkBegin(by, req); err != nil {
		return clientRequest{}, err
	}
	if req.Handle == "" {
		// The browser runs on the computer on which tsh does.
		return clientRequest{
			Challenge: req.Challenge,
			Callback:  req.Callback,
			State:     req.State,
			Host:      state.ClientHost{Name: req.Host, Addr: req.From},
		}, nil
	}
	var handle headlessHandle
	if err := s.sealer.open(opBegin, stageHeadless, req.Handle, s.cfg.Now(), &handle); err != nil {
		return clientRequest{}, err
	}
	return clientRequest{Challenge: handle.Challenge, Host: handle.host(), Headless: &handle}, nil
}

// checkBegin refuses a request that tsh or our own pages would not send, with fault Invalid. The challenge,
// the state and the callback come from the link that the user opened, so an attacker may have made them. The
// handle is not checked here: it is sealed, so opening it shows whether it was altered.
func (s *Service) checkBegin(by identity.Identity, req authrpc.BeginLoginRequest) error {
	headless := req.Handle != ""
	switch {
	case headless && req.Challenge+req.State+req.Callback+req.Host != "":
		return loginLinkMixed.New(opBegin)
	case !headless && !challengeRE.MatchString(req.Challenge):
		return loginLinkChallengeMalformed.New(opBegin)
	case !headless && !stateRE.MatchString(req.State):
		return loginLinkStateMalformed.New(opBegin)
	case !headless && !loopbackCallback(req.Callback):
		return loginLinkCallbackForeign.New(opBegin)
	case req.Host != "" && !authrpc.ValidHostName(req.Host):
		return loginLinkHostMalformed.New(opBegin)
	case req.Locale != "" && !localeRE.MatchString(req.Locale):
		return loginLinkLocaleInvalid.New(opBegin)
	case len(req.Connector) > maxConnector:
		return loginLinkTooLong.New(opBegin)
	}
	if err := checkOrigin(req.PublicOrigin); err != nil {
		return err
	}
	return s.cfg.AllowedOrigin(by, req.PublicOrigin)
}

// loopbackCallback reports whether the one-time code may be sent to the address: only a program on the user's
// own machine can receive it there.
func loopbackCallback(callback string) bool {
	m := callbackRE.FindStringSubmatch(callback)
	if m == nil {
		return false
	}
	port, err := strconv.Atoi(m[1])
	return err == nil && port < 1<<16
}

// checkOrigin refuses everything but https://host[:port], with fault Invalid.
func checkOrigin(origin string) error {
	u, err := url.Parse(origin)
	if err != nil || len(origin) > maxOrigin || u.Scheme != "https" || u.Host == "" ||
		origin != "https://"+u.Host {
		return publicAddressInvalid.New(opBegin)
	}
	return nil
}

// chooseConnector returns the name of the wanted connector, without checking that it exists, or that of the
// only one. If none is wanted and there are several, name is empty and choices has all of them.
func (s *Service) chooseConnector(
	ctx context.Context, wanted string,
) (name string, choices []authrpc.Connector, err error) {
	if wanted != "" {
		return wanted, nil, nil
	}
	all, err := s.cfg.Providers.List(ctx)
	if err != nil {
		return "", nil, err
	}
	switch len(all) {
	case 0:
		return "", nil, connectorsNone.New(opBegin)
	case 1:
		return all[0].Name, nil, nil
	}
	choices = make([]authrpc.Connector, len(all))
	for i, c := range all {
		choices[i] = authrpc.Connector{Name: c.Name, DisplayName: c.Display}
	}
	return "", choices, nil
}
