package totp

import (
	"context"

	"github.com/pquerna/otp"
	"github.com/pquerna/otp/totp"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// Enrolment is an enrolment that waits for its first right code. Until then it is nowhere but in the sealed
// attempt of the one browser.
type Enrolment struct {
	Secret string `json:"secret"` // base32, 160 bits
	URI    string `json:"-"`      // otpauth://, for the QR code
}

// OfferEnrolment returns nil for a person who has a second factor, and a fresh enrolment for one who has
// none. It stores nothing.
func (s *Service) OfferEnrolment(ctx context.Context, who identity.Identity) (*Enrolment, error) {
	have, err := s.store.Factor(ctx, who.UserKey())
	if err != nil || have.Secret != "" {
		return nil, err
	}
	key, err := totp.Generate(totp.GenerateOpts{
		Issuer:      s.issuer,
		AccountName: who.Name,
		Period:      period,
		SecretSize:  20,
		Digits:      otp.DigitsSix,
		Algorithm:   otp.AlgorithmSHA1,
	})
	if err != nil {
		return nil, fault.Wrap(
			err,
			fault.Internal,
			"totp.Offer",
			"no TOTP secret could be generated",
			"try again: tsh login",
		)
	}
	return &Enrolment{Secret: key.Secret(), URI: key.String()}, nil
}
