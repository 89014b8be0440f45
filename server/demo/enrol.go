package demo

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/pquerna/otp/totp"

	"github.com/threshold-access/threshold/internal/formbrowser"
)

// unusedCallback is a loopback address where no tsh listens: the enrolment stops before the browser would go
// there.
const unusedCallback = "http://127.0.0.1:1/callback"

// enrolUsers takes each user through a first login, as a browser would, so that the codes which the demo
// prints work.
func (c *cluster) enrolUsers(ctx context.Context) error {
	for i := range c.state.Users {
		if u := &c.state.Users[i]; !u.Enrolled {
			if err := c.enrol(ctx, u); err != nil {
				return fmt.Errorf("enrol %s: %w", u.Email, err)
			}
		}
	}
	return nil
}

func (c *cluster) enrol(ctx context.Context, u *account) error {
	// The challenge commits to keys that do not exist, so this login can never be redeemed.
	challenge := strings.Repeat("A", 43)
	address := fmt.Sprintf(
		"https://%s/login?challenge=%s&state=enrolment-of-demo&callback=%s",
		c.public,
		challenge,
		unusedCallback,
	)
	page, err := formbrowser.New(c.roots(), unusedCallback).Open(ctx, address)
	if err != nil {
		return err
	}
	if page, err = page.Submit(ctx, map[string]string{"login": u.Email, "password": u.Password}); err != nil {
		return err
	}
	if secret := page.ByID("secret"); secret != "" {
		// Saved before the code is sent: the cluster must never know a secret that the demo has lost.
		u.TOTPSecret = strings.ReplaceAll(secret, " ", "")
		if err := c.state.save(); err != nil {
			return err
		}
		if err := proveEnrolment(ctx, page, u); err != nil {
			return err
		}
	} else if !page.HasField("code") {
		return fmt.Errorf("unexpected page: %s", page.Text())
	}
	u.Enrolled = true
	return c.state.save()
}

// proveEnrolment sends the code of the step before the current one, so that the current code is still unused
// when the user logs in at once.
func proveEnrolment(ctx context.Context, page *formbrowser.Page, u *account) error {
	for range 2 { // a new step may begin in between: then the code was two steps old, and the next one is not
		code, err := totp.GenerateCode(u.TOTPSecret, time.Now().Add(-codeStep))
		if err != nil {
			return err
		}
		if page, err = page.Submit(ctx, map[string]string{"code": code}); err != nil ||
			!page.HasField("code") {
			return err
		}
	}
	return fmt.Errorf("the code was refused: %s", page.Text())
}
