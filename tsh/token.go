package tsh

import (
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
		Example: "  tsh token create --label env=prod --label team=web",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := newToken(kind, ttl, labels)
			if err != nil {
				return err
			}
			return a.apply(c.Context(), []authrpc.Resource{r})
		},
	}
	f := create.Flags()
	f.StringVar(&kind, "kind", kind, "`KIND` of machine: node or proxy")
	f.DurationVar(&ttl, "ttl", ttl, "how long it may be used, as 90s or 15m; at most 30m")
	f.StringArrayVar(&labels, "label", nil, "`KEY=VALUE` of the machine; may be repeated")
	_ = create.RegisterFlagCompletionFunc("kind", cobra.FixedCompletions([]string{"node", "proxy"}, cobra.ShellCompDirectiveNoFileComp))
	c.AddCommand(create)
	return c
}

func newToken(kind string, ttl time.Duration, labels []string) (r authrpc.Resource, err error) {
	if kind != string(identity.Node) && kind != string(identity.Proxy) {
		return r, fault.New(fault.Invalid, "", fmt.Sprintf("--kind=%s is no kind of machine that joins by token", kind), "use node or proxy")
	}
	if ttl < minTokenTTL || ttl > maxTokenTTL {
		return r, fault.New(fault.Invalid, "", fmt.Sprintf("--ttl=%s is not between %s and %s", ttl, minTokenTTL, maxTokenTTL), "choose a time in between")
	}
	spec := tokenSpec{Kind: identity.Kind(kind), TTL: access.Duration(ttl)}
	if len(labels) > 0 {
		if spec.Labels, err = parseLabels(labels); err != nil {
			return r, err
		}
		if err := identity.Labels(spec.Labels).Check(); err != nil {
			return r, fault.Wrap(err, fault.Invalid, "", err.Error(), "write --label KEY=VALUE, as --label env=prod")
		}
	}
	r = authrpc.Resource{Kind: "token", Version: "v1"} // auth draws the name
	r.Spec, err = json.Marshal(spec)
	return r, err
}

// showToken prints a join token, this once, with the commands to type on the new machine. The token goes through a file, never an
// argument: arguments show in process lists.
func (a *app) showToken(proxy, secret string) {
	fmt.Fprintf(a.Stdout, "token: %s\n", clean(secret))
	const save = "\nNext, on the new machine, as root:\n  install -m 0600 /dev/stdin token        # paste the token, then Enter and Ctrl-D\n"
	if t, err := authrpc.ParseToken(secret); err == nil && t.Kind == identity.Proxy {
		fmt.Fprint(a.Stderr, save+"  threshold start --config threshold.yaml # with token_file: token in its proxy section\n")
		return
	}
	fmt.Fprintf(a.Stderr, save+"  threshold-node --proxy %s --data /var/lib/threshold-node --token-file token\n", proxy)
}
