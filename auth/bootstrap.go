package auth

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/threshold-access/threshold/auth/oidc"
	"github.com/threshold-access/threshold/auth/resources"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/config"
	"github.com/threshold-access/threshold/internal/identity"
)

// bootstrap is what a cluster is born from: a file of one cluster document and any roles and connectors to
// begin with.
type bootstrap struct {
	name       string
	seal       string
	roles      []access.Role
	connectors []state.NamedConnector
}

// clusterSpec is the spec of the cluster document.
type clusterSpec struct {
	Seal      string         `yaml:"seal"      config:"required"` // key URI; a file:// that is missing is made
	Connector namedConnector `yaml:"connector" config:"required"`
	Admin     adminClaim     `yaml:"admin"     config:"required"`
}

// namedConnector is the first connector: a connector's spec, and its name beside it.
type namedConnector struct {
	Name      string `yaml:"name"    config:"required"`
	oidc.Spec `       yaml:",inline"`
}

// Check implements config.Checker.
func (c namedConnector) Check(report func(path, format string, args ...any)) {
	if err := identity.CheckWord("connector", c.Name); err != nil {
		report("name", "%v", err)
	}
	c.Spec.Check(report)
}

// adminClaim says which claim of the first connector makes an administrator.
type adminClaim struct {
	Claim string `yaml:"claim" config:"required"`
	Value string `yaml:"value" config:"required"`
}

// Check implements config.Checker.
func (a adminClaim) Check(report func(path, format string, args ...any)) {
	if strings.Trim(a.Value, "*?") == "" {
		report("value", "%q would make an administrator of everyone who has the claim", a.Value)
	}
}

// Check implements config.Checker.
func (c clusterSpec) Check(report func(path, format string, args ...any)) {
	u, err := url.Parse(c.Seal)
	if err != nil || u.Scheme == "" {
		report("seal", "is no key URI: name a key file, as file:///etc/threshold/seal.key")
	}
}

// CheckBootstrap says what is wrong with a file that a cluster would be born from.
func CheckBootstrap(name string, data []byte) error {
	_, err := readBootstrap(name, data)
	return err
}

// readBootstrap reads the file and reports everything wrong with it at once.
func readBootstrap(name string, data []byte) (*bootstrap, error) {
	docs, err := config.DecodeAll(name, data)
	faults := []error{err}
	b := &bootstrap{roles: []access.Role{resources.BuiltInAdmin()}}
	clusters := 0
	for _, doc := range docs {
		if doc.Kind == "cluster" {
			clusters++
		}
		faults = append(faults, b.read(doc, clusters))
	}
	if err == nil && clusters == 0 {
		faults = append(
			faults,
			config.Faults{
				{File: name, Line: 1, Msg: "no document of kind cluster: a cluster is born from one"},
			},
		)
	}
	if err := config.Join(faults...); err != nil {
		return nil, err
	}
	return b, resources.CheckSize(b.roles)
}

func (b *bootstrap) read(doc config.Document, clusters int) error {
	var faults config.Faults
	if doc.Version != resources.Version {
		faults = append(
			faults,
			doc.Fault(
				"version %q of a %s is not known: write version: %s",
				doc.Version,
				doc.Kind,
				resources.Version,
			),
		)
	}
	var err error
	switch doc.Kind {
	case "cluster":
		if clusters > 1 {
			faults = append(faults, doc.Fault("a second cluster document: a file gives birth to one cluster"))
		}
		err = b.readCluster(doc)
	case "role":
		err = b.readRole(doc)
	case "connector":
		var spec oidc.Spec
		if err = doc.Spec(&spec); err == nil {
			err = b.addConnector(doc, doc.Metadata.Name, spec)
		}
	default:
		faults = append(
			faults,
			doc.Fault("kind %q is not known here; known: cluster, role, connector", doc.Kind),
		)
	}
	if len(faults) == 0 {
		return err
	}
	return config.Join(faults, err)
}

func (b *bootstrap) readCluster(doc config.Document) error {
	var spec clusterSpec
	err := doc.Spec(&spec)
	if nerr := identity.CheckCluster(doc.Metadata.Name); nerr != nil {
		err = config.Join(err, config.Faults{doc.Fault("metadata.name: %v", nerr)})
	}
	if err != nil {
		return err
	}
	b.name, b.seal = doc.Metadata.Name, spec.Seal
	spec.Connector.Roles = append(
		spec.Connector.Roles,
		oidc.RoleRule{
			Claim: spec.Admin.Claim,
			Value: spec.Admin.Value,
			Roles: config.Strings{state.AdminRole},
		},
	)
	return b.addConnector(doc, spec.Connector.Name, spec.Connector.Spec)
}

func (b *bootstrap) readRole(doc config.Document) error {
	var role access.Role
	if err := doc.Spec(&role); err != nil {
		return err
	}
	if err := identity.CheckWord("role", doc.Metadata.Name); err != nil {
		return config.Faults{doc.Fault("metadata.name: %v", err)}
	}
	role.Name = doc.Metadata.Name
	for _, r := range b.roles {
		if r.Name == role.Name {
			return config.Faults{doc.Fault("the role %s is there already%s", role.Name, builtIn(role.Name))}
		}
	}
	b.roles = append(b.roles, role)
	return nil
}

func builtIn(name string) string {
	if name == state.AdminRole {
		return ": it is built in"
	}
	return ""
}

func (b *bootstrap) addConnector(doc config.Document, name string, spec oidc.Spec) error {
	if err := identity.CheckWord("connector", name); err != nil {
		return config.Faults{doc.Fault("metadata.name: %v", err)}
	}
	for _, c := range b.connectors {
		if c.Name == name {
			return config.Faults{doc.Fault("the connector %s is there already", name)}
		}
	}
	rec, err := spec.Record()
	if err != nil {
		return fmt.Errorf("connector %s: %w", name, err)
	}
	b.connectors = append(b.connectors, state.NamedConnector{Name: name, Connector: rec})
	return nil
}
