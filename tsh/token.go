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
	"github.com/threshold-access/threshold/tsh/output"
	"github.com/threshold-access/threshold/tsh/terminal"
)

// Lifetime of a join token.
const (
	defaultTokenTTL = 30 * time.Minute
	minTokenTTL     = time.Second
	maxTokenTTL     = 30 * time.Minute
)

// tokenSpec is the spec of a token resource.
type tokenSpec struct {
	Kind   identity.Kind     `json:"kind"`
	TTL    access.Duration   `json:"ttl"`
	Labels map[string]string `json:"labels,omitempty"` // override the labels that the machine requests
}

// tokenCmd is "tsh token". A token is a resource: create applies one and shows its secret, and get and rm
// work with it too.
func (a *app) tokenCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Create join tokens for machines", GroupID: admin}
	kind, ttl := string(identity.Node), defaultTokenTTL
	var labels []string
	create := &cobra.Command{
		Use:   "create",
		Short: "Create a token by which one machine can join, once and within a short time",
		Example: "  tsh token create --label env=prod --label team=web\n" +
			"  tsh token create --format=json | jq -r .token",
		Args: noArgs("leave %s out"),
	}
	format := formatFlag(create)
	create.RunE = func(cmd *cobra.Command, _ []string) error {
		resource, err := newToken(kind, ttl, labels)
		if err != nil {
			return err
		}
		if *format == output.Text {
			return a.apply(cmd.Context(), []authrpc.Resource{resource})
		}
		created := createdToken{Kind: identity.Kind(kind), TTL: access.Duration(ttl)}
		return a.createToken(cmd.Context(), resource, created, *format)
	}
	flags := create.Flags()
	flags.StringVar(&kind, "kind", kind, "`KIND` of machine: node or proxy")
	flags.DurationVar(&ttl, "ttl", ttl, "how long the token is valid, as 90s or 15m; at most 30m")
	flags.StringArrayVar(&labels, "label", nil, "label of the machine, as `KEY=VALUE`; may be repeated")
	kinds := cobra.FixedCompletions([]string{"node", "proxy"}, cobra.ShellCompDirectiveNoFileComp)
	_ = create.RegisterFlagCompletionFunc("kind", kinds) // the flag exists
	cmd.AddCommand(create)
	return cmd
}

// createdToken is a new token in JSON or YAML.
type createdToken struct {
	Name  string          `json:"name"`
	Kind  identity.Kind   `json:"kind"`
	TTL   access.Duration `json:"ttl"`
	Token string          `json:"token"` // secret; shown only here
}

// createToken creates a token and writes only t, completed, to standard output.
func (a *app) createToken(
	ctx context.Context,
	resource authrpc.Resource,
	t createdToken,
	format output.Format,
) error {
	prof, err := a.currentLogin()
	if err != nil {
		return err
	}
	client := a.auth(prof)
	defer client.Close()
	req := authrpc.ApplyResourceRequest{Resource: resource}
	got, err := authrpc.Call(ctx, client, authrpc.ApplyResource, req)
	if err != nil {
		return err
	}
	t.Name, t.Token = got.Resource.Metadata.Name, got.Secret
	return a.write(format, t, nil)
}

// newToken returns the resource of a token, without a name: the auth service generates it.
func newToken(kind string, ttl time.Duration, labels []string) (resource authrpc.Resource, err error) {
	if kind != string(identity.Node) && kind != string(identity.Proxy) {
		msg := fmt.Sprintf("--kind=%s is not a kind of machine that joins with a token", kind)
		return resource, fault.New(fault.Invalid, "", msg, "use node or proxy")
	}
	if ttl < minTokenTTL || ttl > maxTokenTTL {
		msg := fmt.Sprintf("--ttl=%s is not between %s and %s", ttl, minTokenTTL, maxTokenTTL)
		return resource, fault.New(fault.Invalid, "", msg, "choose a duration in this range")
	}
	spec := tokenSpec{Kind: identity.Kind(kind), TTL: access.Duration(ttl)}
	if len(labels) > 0 {
		if spec.Labels, err = parseLabels(labels); err == nil {
			err = identity.Labels(spec.Labels).Check()
		}
		if err != nil {
			hint := "write --label KEY=VALUE, as --label env=prod"
			return resource, fault.Wrap(err, fault.Invalid, "", "--label: "+err.Error(), hint)
		}
	}
	resource = authrpc.Resource{Kind: "token", Version: "v1"}
	resource.Spec, err = json.Marshal(spec)
	return resource, err
}

// showToken prints a join token, which cannot be shown again, with the commands to type on the new machine.
// There the token goes into a file and not into an argument, because other users can see arguments in the
// list of processes.
func (a *app) showToken(proxy, secret string) {
	fmt.Fprintf(a.Stdout, "token: %s\n", terminal.Clean(secret))
	const save = "\nNext, on the new machine, as root:\n" +
		"  install -m 0600 /dev/stdin token        # paste the token, then press Enter and Ctrl-D\n"
	if t, err := authrpc.ParseToken(secret); err == nil && t.Kind == identity.Proxy {
		const start = "  threshold start --config threshold.yaml  # with token_file in its proxy section\n"
		fmt.Fprint(a.Stderr, save+start)
		return
	}
	const start = "  threshold-node --proxy %s --data /var/lib/threshold-node --token-file token\n"
	fmt.Fprintf(a.Stderr, save+start, proxy)
}
