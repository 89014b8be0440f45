package factor

import (
	"encoding/json"
	"time"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/identity"
)

// Recovery is the method of a proof that a recovery code gave.
const Recovery = "recovery"

// Challenge is what a user must answer to prove a second factor. It is shown to the user's browser, and given
// back to the method that made it, together with the answer.
type Challenge struct {
	Kind string `json:"kind"` // Method.Kind
	// Enrol says that the answer enrols a new factor: the user has none.
	Enrol bool `json:"enrol,omitempty"`
	// Body is what the browser needs: of TOTP the new secret, of WebAuthn the options of the call.
	Body json.RawMessage `json:"body,omitempty"`
}

// Response is what a browser answers to the challenge of its kind. The body is a JSON string if the user
// types the answer. A recovery code answers a challenge of every kind.
type Response struct {
	Kind string          `json:"kind"`
	Body json.RawMessage `json:"body"`
}

// Method is one kind of second factor. Its functions judge and make challenges, but store nothing: the
// Service stores what they return. They may be called by several goroutines at once.
type Method interface {
	// Kind is the name of the method in challenges, records and identities, such as "totp".
	Kind() string
	// Enrol returns the challenge of a user who has no factor yet.
	Enrol(who identity.Identity) (Challenge, error)
	// Challenge returns the challenge of a user with these factors of the kind.
	Challenge(who identity.Identity, enrolled []state.Factor) (Challenge, error)
	// Judge judges an answer. A response that has not the form of an answer gets fault Invalid.
	Judge(r JudgeRequest) (Judgement, error)
}

// JudgeRequest is a response with all that a method needs to judge it.
type JudgeRequest struct {
	Who       identity.Identity
	Challenge Challenge
	// Enrolled are the user's factors of this kind. It may be empty without an enrolment, if the factor was
	// removed since: the answer is wrong then, after the same work.
	Enrolled []state.Factor
	Body     json.RawMessage // of the response
	Now      time.Time
}

// Verdict says how an answer was judged. The zero value is the refusal.
type Verdict int

const (
	Wrong    Verdict = iota // it counts towards the lockout
	Reused                  // it was right, and used before: it is no guess, so it does not count
	Accepted                // it is right
)

// Judgement is what a method decides of an answer.
type Judgement struct {
	Verdict Verdict
	// Factor is the factor that was answered for, as it must be stored now. For an accepted enrolment it is
	// the new one, without an id. It is not used if the answer is Wrong.
	Factor state.Factor
	// Changed says that Factor differs from the stored one. It is always true for an accepted answer that
	// must not be accepted again.
	Changed bool
	// Refusal is the error for the user of an answer that is not accepted.
	Refusal error
}
