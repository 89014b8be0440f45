package tsh

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// Life of a join token.
const (
	defaultTokenTTL = 30 * time.Minute
	minTokenTTL     = time.Second
	maxTokenTTL     = 30 * time.Minute
)

// tokenSpec is the spec of a token resource.
type tokenSpec struct {
	Kind   identity.Kind     `json:"kind"`
	TTL    access.Duration   `json:"ttl"`
	Labels map[string]string `json:"labels,omitempty"` // the machine's, whatever it wishes
}

func (a *app) tokenCmd() *cobra.Command {
	c := &cobra.Command{Use: "token", Short: "Make join tokens for machines", GroupID: admin}
	kind, ttl := string(identity.Node), defaultTokenTTL
	var labels []string
	create := &cobra.Command{
		Use:     "create",
		Short:   "Make a token that admits one machine, once, for a short time",
		Example: "  tsh token create --label env=prod --label team=web\n  tsh token create --format=json | jq -r .token",
		Args:    noArgs("leave %s out"),
	}
	form := formatFlag(create)
	create.RunE = func(c *cobra.Command, _ []string) error {
		r, err := newToken(kind, ttl, labels)
		if err != nil {
			return err
		}
		if *form == asText {
			return a.apply(c.Context(), []authrpc.Resource{r})
		}
		return a.makeToken(
			c.Context(),
			r,
			createdToken{Kind: identity.Kind(kind), TTL: access.Duration(ttl)},
			*form,
		)
	}
	f := create.Flags()
	f.StringVar(&kind, "kind", kind, "`KIND` of machine: node or proxy")
	f.DurationVar(&ttl, "ttl", ttl, "how long it may be used, as 90s or 15m; at most 30m")
	f.StringArrayVar(&labels, "label", nil, "`KEY=VALUE` of the machine; may be repeated")
	_ = create.RegisterFlagCompletionFunc(
		"kind",
		cobra.FixedCompletions([]string{"node", "proxy"}, cobra.ShellCompDirectiveNoFileComp),
	)
	c.AddCommand(create)
	return c
}

// createdToken is a new token for programs to read.
type createdToken struct {
	Name  string          `json:"name"`
	Kind  identity.Kind   `json:"kind"`
	TTL   access.Duration `json:"ttl"`
	Token string          `json:"token"` // secret; shown this once
}

// makeToken makes a token and writes it for a program: nothing else is said.
func (a *app) makeToken(ctx context.Context, r authrpc.Resource, t createdToken, form format) error {
	p, err := a.currentLogin()
	if err != nil {
		return err
	}
	c := a.auth(p)
	defer c.Close()
	got, err := authrpc.Call(ctx, c, authrpc.ApplyResource, authrpc.ApplyResourceRequest{Resource: r})
	if err != nil {
		return err
	}
	t.Name, t.Token = got.Resource.Metadata.Name, got.Secret
	return a.write(form, t, nil)
}

func newToken(kind string, ttl time.Duration, labels []string) (r authrpc.Resource, err error) {
	if kind != string(identity.Node) && kind != string(identity.Proxy) {
		return r, fault.New(
			fault.Invalid,
			"",
			fmt.Sprintf("--kind=%s is no kind of machine that joins by token", kind),
			"use node or proxy",
		)
	}
	if ttl < minTokenTTL || ttl > maxTokenTTL {
		return r, fault.New(
			fault.Invalid,
			"",
			fmt.Sprintf("--ttl=%s is not between %s and %s", ttl, minTokenTTL, maxTokenTTL),
			"choose a time in between",
		)
	}
	spec := tokenSpec{Kind: identity.Kind(kind), TTL: access.Duration(ttl)}
	if len(labels) > 0 {
		if spec.Labels, err = parseLabels(labels); err == nil {
			err = identity.Labels(spec.Labels).Check()
		}
		if err != nil {
			return r, fault.Wrap(
				err,
				fault.Invalid,
				"",
				"--label: "+err.Error(),
				"write --label KEY=VALUE, as --label env=prod",
			)
		}
	}
	r = authrpc.Resource{Kind: "token", Version: "v1"} // auth draws the name
	r.Spec, err = json.Marshal(spec)
	return r, err
}

// showToken prints a join token, this once, with the commands to type on the new machine. The token goes
// through a file, never an argument: arguments show in process lists.
func (a *app) showToken(proxy, secret string) {
	fmt.Fprintf(a.Stdout, "token: %s\n", clean(secret))
	const save = "\nNext, on the new machine, as root:\n  install -m 0600 /dev/stdin token        # paste the token, then Enter and Ctrl-D\n"
	if t, err := authrpc.ParseToken(secret); err == nil && t.Kind == identity.Proxy {
		fmt.Fprint(
			a.Stderr,
			save+"  threshold start --config threshold.yaml # with token_file: token in its proxy section\n",
		)
		return
	}
	fmt.Fprintf(
		a.Stderr,
		save+"  threshold-node --proxy %s --data /var/lib/threshold-node --token-file token\n",
		proxy,
	)
}
