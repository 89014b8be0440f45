package oidc

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/threshold-access/threshold/internal/fault"
)

const (
	// Skew is how far the provider's clock may differ from ours.
	Skew = time.Minute
	// maxTokenAge is how long ago an ID token may have been issued. It was fetched a moment ago, for a flow
	// of at most ten minutes.
	maxTokenAge = 10 * time.Minute
	// maxToken bounds an ID token, in bytes.
	maxToken = 32 << 10
)

// claims are those of a verified ID token. Numbers are of type json.Number.
type claims map[string]any

// verifyIDToken returns the claims of the ID token in the response of the token endpoint, after every check
// of OpenID Connect Core 1.0 section 3.1.3.7 has passed. A token that fails one gets fault Invalid. If the
// provider's keys cannot be fetched, or not yet again, the error is fault Unavailable.
func (p *provider) verifyIDToken(
	ctx context.Context, meta *metadata, flow Flow, response *oauth2.Token,
) (claims, error) {
	raw, _ := response.Extra("id_token").(string)
	if raw == "" || len(raw) > maxToken {
		return nil, p.invalidTokenFault(fmt.Errorf("%d bytes", len(raw)),
			idTokenMissing)
	}
	keys := &errorRecorder{keys: meta.keys}
	verifier := gooidc.NewVerifier(p.spec.Issuer, keys, &gooidc.Config{
		ClientID:             p.spec.ClientID,
		SupportedSigningAlgs: meta.algs,
		SkipExpiryCheck:      true, // checkTimes checks all times with one bound
	})
	token, err := verifier.Verify(ctx, raw)
	var notFetched *fetchError
	switch {
	case errors.As(keys.err, &notFetched):
		return nil, p.unreachableFault(err)
	case errors.Is(keys.err, errFetchedRecently):
		return nil, providerKeyUnpublished.Wrap(err, opFinish, fault.Args{"provider": p.display()})
	case err != nil:
		return nil, p.invalidTokenFault(err, idTokenInvalid)
	}
	// Only now is the content of the token what the provider signed.
	verified, err := decodeClaims(token)
	if err != nil {
		return nil, p.invalidTokenFault(err, idTokenUnreadable)
	}
	err = errors.Join(
		p.checkAudience(token, verified, response.AccessToken),
		checkNonce(flow, token),
		p.checkTimes(token, verified),
	)
	if err != nil {
		return nil, err
	}
	return verified, nil
}

// decodeClaims returns the claims of a verified token. It decodes numbers as json.Number, because a float64
// would round large ids.
func decodeClaims(token *gooidc.IDToken) (claims, error) {
	var raw json.RawMessage
	if err := token.Claims(&raw); err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var decoded claims
	err := dec.Decode(&decoded)
	return decoded, err
}

// invalidTokenFault is the error for a token that is a mistake of the provider or an attack. Either way an
// administrator must look at it. code is one of those with responseRefused.
func (p *provider) invalidTokenFault(err error, code fault.Code) error {
	return code.Wrap(truncateError(err), opFinish, fault.Args{"provider": p.display(), "connector": p.name})
}

// checkAudience refuses a token that was issued to another client, and one that does not belong to the access
// token beside it. go-oidc has checked that aud contains our client id. But a token may have several
// audiences: then azp says which client it was issued to.
func (p *provider) checkAudience(token *gooidc.IDToken, verified claims, accessToken string) error {
	issuedTo, hasAZP := verified["azp"]
	audiences := slices.Compact(slices.Sorted(slices.Values(token.Audience)))
	forOther := hasAZP && issuedTo != p.spec.ClientID
	ambiguous := !hasAZP && len(audiences) > 1
	if forOther || ambiguous {
		return p.invalidTokenFault(fmt.Errorf("azp %v, aud %q", issuedTo, token.Audience),
			idTokenOfOtherClient)
	}
	if token.AccessTokenHash != "" {
		if err := token.VerifyAccessToken(accessToken); err != nil {
			return p.invalidTokenFault(err, idTokenHashWrong)
		}
	}
	return nil
}

// checkNonce refuses a token that was issued for another flow.
func checkNonce(flow Flow, token *gooidc.IDToken) error {
	if flow.Nonce == "" || subtle.ConstantTimeCompare([]byte(token.Nonce), []byte(flow.Nonce)) != 1 {
		return idTokenOfOtherLogin.New(opFinish)
	}
	return nil
}

// checkTimes checks iat, exp and nbf. The token was fetched a moment ago, so if it was not issued about now,
// one of the two clocks is wrong, and the error says so: an expiry that follows from a wrong clock would
// mislead the administrator.
func (p *provider) checkTimes(token *gooidc.IDToken, verified claims) error {
	now := p.now()
	if token.Expiry.IsZero() || token.Expiry.Unix() <= 0 ||
		token.IssuedAt.IsZero() || token.IssuedAt.Unix() <= 0 {
		return p.invalidTokenFault(errors.New("no exp or no iat"), idTokenWithoutTimes)
	}
	age := now.Sub(token.IssuedAt) // negative: the provider's clock is ahead
	expired := now.Sub(token.Expiry) > Skew
	switch {
	case -age > Skew, age > maxTokenAge+Skew, expired && age > Skew:
		return p.clockSkewFault(-age)
	case expired:
		return p.invalidTokenFault(fmt.Errorf("exp %s, iat %s", token.Expiry, token.IssuedAt),
			idTokenExpired)
	}
	if notBefore, has := verified["nbf"]; has {
		number, _ := notBefore.(json.Number)
		seconds, err := number.Float64() // an error also for a value that is no number
		if err != nil || seconds > float64(now.Add(Skew).Unix()) {
			return p.invalidTokenFault(fmt.Errorf("nbf %v", notBefore), idTokenNotYetValid)
		}
	}
	return nil
}

// clockSkewFault is the error for a provider whose clock differs from this server's by the duration. It is
// ahead if by is positive.
func (p *provider) clockSkewFault(by time.Duration) error {
	code := providerClockAhead
	if by < 0 {
		code = providerClockBehind
	}
	return code.New(opFinish, fault.Args{
		"provider": p.display(),
		"gap":      by.Abs().Round(time.Second),
		"now":      p.now().UTC().Format(time.RFC3339),
	})
}
