// Package totp answers: is the code right, and unused?
//
// Codes are those of RFC 6238 with SHA-1, six digits and steps of 30 seconds. The code of one step before or
// after the current one is accepted too. An accepted step is used up, and with it all earlier ones.
package totp

import (
	"crypto/subtle"
	"encoding/json"
	"regexp"
	"time"

	"github.com/pquerna/otp"
	"github.com/pquerna/otp/hotp"
	"github.com/pquerna/otp/totp"

	"github.com/threshold-access/threshold/auth/factor"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/identity"
)

// Kind is the name of this kind of factor.
const Kind = authrpc.TOTP

const opJudge = "totp.Judge"

const (
	period = 30 // seconds of one step
	drift  = 1  // steps that a device's clock may be off, either way
)

// dummySecret is checked for users without a secret, so that the answer takes as long as for others. A code
// that matches it counts as wrong.
const dummySecret = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

// Method is the factor.Method of authenticator apps.
type Method struct {
	// Issuer is what an app shows beside the user's name: the name of the cluster.
	Issuer string
}

var _ factor.Method = Method{}

// usedSteps is state.Factor.Data of an app.
type usedSteps struct {
	Last   int64 `json:"last,omitempty"`   // the newest step that was used
	Reused int64 `json:"reused,omitempty"` // the newest used step that was tried again
}

// Kind implements factor.Method.
func (Method) Kind() string { return Kind }

// Enrol returns a challenge with a new secret. Its body is authrpc.TOTPEnrolment.
func (m Method) Enrol(who identity.Identity) (factor.Challenge, error) {
	key, err := totp.Generate(totp.GenerateOpts{
		Issuer:      m.Issuer,
		AccountName: who.Name,
		Period:      period,
		SecretSize:  20, // bytes: the length of a SHA-1, as RFC 4226 section 4 recommends
		Digits:      otp.DigitsSix,
		Algorithm:   otp.AlgorithmSHA1,
	})
	if err != nil {
		return factor.Challenge{}, totpSecretFailed.Wrap(err, "totp.Enrol")
	}
	body, err := json.Marshal(authrpc.TOTPEnrolment{URI: key.String(), Secret: key.Secret()})
	if err != nil {
		return factor.Challenge{}, totpSecretFailed.Wrap(err, "totp.Enrol")
	}
	return factor.Challenge{Kind: Kind, Enrol: true, Body: body}, nil
}

// Challenge returns a challenge without a body: the app needs nothing but the time.
func (Method) Challenge(identity.Identity, []state.Factor) (factor.Challenge, error) {
	return factor.Challenge{Kind: Kind}, nil
}

var codeRE = regexp.MustCompile(`^[0-9]{6}$`)

// Judge judges a code by the user's apps, or at an enrolment by the secret of the challenge. Text that has
// not the form of a code gets fault Invalid.
func (Method) Judge(r factor.JudgeRequest) (factor.Judgement, error) {
	code := factor.TypedCode(r.Body)
	if !codeRE.MatchString(code) {
		return factor.Judgement{}, secondFactorMalformed.New(opJudge)
	}
	apps := r.Enrolled
	if r.Challenge.Enrol {
		var offered authrpc.TOTPEnrolment
		if err := json.Unmarshal(r.Challenge.Body, &offered); err != nil || offered.Secret == "" {
			return factor.Judgement{}, totpEnrolmentUnreadable.New(opJudge).Because(err)
		}
		apps = []state.Factor{{Secret: offered.Secret}}
	}
	if len(apps) == 0 {
		_, _ = matchStep(dummySecret, code, r.Now)
	}
	// All apps are tried, whichever one matches, so that the time says nothing.
	judged := factor.Judgement{Refusal: secondFactorWrong.New(opJudge)}
	for _, app := range apps {
		if step, ok := matchStep(app.Secret, code, r.Now); ok && judged.Verdict != factor.Accepted {
			var err error
			if judged, err = useStep(app, step); err != nil {
				return factor.Judgement{}, err
			}
		}
	}
	return judged, nil
}

// useStep accepts the step of a correct code, and uses it up with all earlier ones, so that an observed older
// code does not work either. A step that was used is refused. Only the first reuse of a step must be stored:
// repeating it cannot fill the audit log.
func useStep(app state.Factor, step int64) (factor.Judgement, error) {
	var steps usedSteps
	if len(app.Data) > 0 {
		if err := json.Unmarshal(app.Data, &steps); err != nil {
			return factor.Judgement{}, totpRecordUnreadable.Wrap(err, opJudge)
		}
	}
	judged := factor.Judgement{Verdict: factor.Accepted, Factor: app, Changed: true}
	if step > steps.Last {
		steps.Last = step
	} else {
		judged.Verdict, judged.Refusal = factor.Reused, secondFactorUsed.New(opJudge)
		judged.Changed = step > steps.Reused
		steps.Reused = max(step, steps.Reused)
	}
	data, err := json.Marshal(steps)
	judged.Factor.Data = data
	return judged, err
}

// matchStep returns the newest step of 30 seconds whose code was entered, among the current one and drift
// steps around it, and false for a wrong code. It computes and compares every step, whichever one matches, so
// that the time it takes says nothing.
func matchStep(secret, code string, now time.Time) (step int64, ok bool) {
	opts := hotp.ValidateOpts{Digits: otp.DigitsSix, Algorithm: otp.AlgorithmSHA1}
	current := now.Unix() / period
	for at := current - drift; at <= current+drift; at++ {
		want, err := hotp.GenerateCodeCustom(secret, uint64(at), opts)
		if err == nil && subtle.ConstantTimeCompare([]byte(want), []byte(code)) == 1 {
			step, ok = at, true
		}
	}
	return step, ok
}
