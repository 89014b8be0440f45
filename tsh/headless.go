package tsh

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// maxPollInterval bounds how long a waiting login pauses between questions, whatever auth says.
const maxPollInterval = 10 * time.Second

// loginHeadless logs in from a machine without a browser: it shows a link and a code, and waits until
// somebody has logged in with them elsewhere. All of it goes end to end to auth, so that no proxy can show
// another's code.
func (a *app) loginHeadless(
	ctx context.Context,
	addr string,
	at cluster,
	k *loginKeys,
	o loginOptions,
) (authrpc.RedeemLoginResponse, error) {
	c := authrpc.NewClientWithDialer(
		a.dialer,
		addr,
		identity.PinnedTLS(at.pin, at.name, identity.ALPNAuth, nil, a.Now, identity.Auth),
	)
	defer c.Close()
	asked, err := authrpc.Call(
		ctx,
		c,
		authrpc.BeginHeadless,
		authrpc.BeginHeadlessRequest{Challenge: k.challenge()},
	)
	if err != nil {
		return authrpc.RedeemLoginResponse{}, err
	}
	fmt.Fprintln(a.Stderr, "Open this address in a browser, on any machine:")
	fmt.Fprintln(a.Stdout, "Open: "+headlessURL(addr, asked.Handle, o.connector))
	fmt.Fprintf(
		a.Stderr,
		"Go on there only if it shows this code:  %s  (and that this machine is at %s)\n",
		clean(asked.Code),
		clean(asked.From),
	)
	fmt.Fprintf(
		a.Stderr,
		"Waiting until %s. The certificates will last an hour at most, and work from this address alone.\n",
		asked.Expires.Local().Format("15:04"),
	)
	return a.pollHeadless(
		ctx,
		c,
		authrpc.RedeemHeadlessRequest{Handle: asked.Handle, Keys: k.reveal()},
		asked.PollInterval,
	)
}

// pollHeadless asks until the person is done. That auth, or the way there, is away for a moment ends nothing.
func (a *app) pollHeadless(
	ctx context.Context,
	c *authrpc.Client,
	req authrpc.RedeemHeadlessRequest,
	every time.Duration,
) (authrpc.RedeemLoginResponse, error) {
	tick := time.NewTicker(min(max(every, time.Second/2), maxPollInterval))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return authrpc.RedeemLoginResponse{}, context.Cause(ctx)
		case <-tick.C:
		}
		res, err := authrpc.Call(ctx, c, authrpc.RedeemHeadless, req)
		switch {
		case err == nil && res.Login != nil:
			return *res.Login, nil
		case err != nil && !fault.Is(err, fault.Unavailable):
			return authrpc.RedeemLoginResponse{}, err
		}
	}
}

func headlessURL(addr, handle, connector string) string {
	q := url.Values{"handle": {handle}}
	if connector != "" {
		q.Set("connector", connector)
	}
	return origin(addr) + authrpc.HeadlessPath + "?" + q.Encode()
}
