//go:build integration

package integration

import "fmt"

// operatorRole is the document of the role operator: on every node it allows the actions with the logins.
// Both are comma-separated lists.
func operatorRole(logins, actions string) string {
	return fmt.Sprintf(`kind: role
version: v1
metadata: {name: operator}
spec:
  allow:
    - nodes: {"*": "*"}
      logins: [%s]
      actions: [%s]
`, logins, actions)
}

// emptyRole is the document of a role that allows to list nodes which do not exist.
func emptyRole(name string) string {
	return fmt.Sprintf(`kind: role
version: v1
metadata: {name: %s}
spec:
  allow:
    - {nodes: {env: x}, actions: [list]}
`, name)
}
