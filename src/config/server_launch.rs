//! `launch`: what a server's mcpo peer is made of, for the files and tools that are generated from the catalog.
//!
//! Decides whether a recipe says exactly what is installed and run. The gateway never runs one, and keeps nothing of it.

use super::{
    env,
    problems::Complaint,
    reader::{Read, Reader},
    wording::printable,
};
use crate::catalog::server::Dialect;

/// Checks the recipe, where the server has one.
pub(super) fn launch(id: &str, table: &mut Reader<'_>, dialect: Read<Dialect>) -> Read<()> {
    let Some(()) = table.optional_table("launch", |launch| recipe(id, launch))? else { return Ok(()) };
    match dialect? {
        Dialect::OpenApi => Ok(()),
        dialect => {
            let sentence = format!("server `{}` has a `launch`, but speaks `{dialect}`", printable(id));
            Err(table.problem("launch", sentence, "leave it out: mcpo makes OpenAPI of what it runs"))
        }
    }
}

fn recipe(id: &str, launch: &mut Reader<'_>) -> Read<()> {
    let npm = launch.optional("npm", npm_pin);
    let pypi = launch.one_or_more("pypi", pypi_pin);
    let command = launch.optional("command", program);
    let args = launch.list("args", one_line);
    let variables = launch.list("env", variable);
    let (npm, pypi, variables) = (npm?, pypi?, variables?);
    if npm.is_some() == pypi.is_some() {
        let sentence = format!("server `{}` has a `launch` that needs either `npm` or `pypi`", printable(id));
        return Err(launch.problem(
            "",
            sentence,
            "name its package there: `npm = \"NAME@1.2.3\"` or `pypi = \"NAME==1.2.3\"`",
        ));
    }
    if command?.is_none() {
        let sentence = format!("server `{}` has a `launch` without `command`", printable(id));
        return Err(launch.problem("", sentence, "add the name of the program that the package installs"));
    }
    let is_unknown = |argument: &String| {
        let name = argument.strip_prefix('$').filter(|name| env::is_variable_name(name));
        name.is_some_and(|name| !variables.iter().any(|known| known == name))
    };
    if args?.iter().any(is_unknown) {
        let sentence =
            format!("server `{}` has a `launch` with a `$VAR` that its `env` does not name", printable(id));
        return Err(launch.problem("args", sentence, "add the variable to `env`"));
    }
    Ok(())
}

fn npm_pin(text: &str) -> Result<(), Complaint> {
    let is_pin = text.rsplit_once('@').is_some_and(|(name, version)| {
        let name = name.strip_prefix('@').map_or(Some(name), |scoped| {
            scoped.split_once('/').filter(|(scope, _)| is_name(scope)).map(|(_, name)| name)
        });
        name.is_some_and(is_name) && is_exact(version) && version.matches('.').count() >= 2
    });
    if is_pin {
        return Ok(());
    }
    Err(Complaint::new("must be a package of npm and one version of it").with_hint("write `NAME@1.2.3`"))
}

fn pypi_pin(text: &str) -> Result<(), Complaint> {
    match text.split_once("==") {
        Some((name, version)) if is_name(name) && is_exact(version) => Ok(()),
        _ => Err(Complaint::new("must be a package of PyPI and one version of it").with_hint(
            "write `NAME==1.2.3`; others that must stay behind their newest version may follow it",
        )),
    }
}

fn is_name(text: &str) -> bool {
    let is_usual = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    text.starts_with(|first: char| first.is_ascii_alphanumeric()) && text.bytes().all(is_usual)
}

fn is_exact(version: &str) -> bool {
    let is_usual = |byte: u8| byte.is_ascii_alphanumeric() || b".-+!".contains(&byte);
    version.starts_with(|first: char| first.is_ascii_digit()) && version.bytes().all(is_usual)
}

fn program(text: &str) -> Result<(), Complaint> {
    if is_name(text) {
        return Ok(());
    }
    Err(Complaint::new("must be the name of a program, without a path")
        .with_hint("it is looked for where the package was installed; arguments go into `args`"))
}

fn one_line(text: &str) -> Result<String, Complaint> {
    if text.contains(char::is_control) {
        return Err(Complaint::new("must be without control characters"));
    }
    Ok(text.to_owned())
}

fn variable(text: &str) -> Result<String, Complaint> {
    if env::is_variable_name(text) {
        return Ok(text.to_owned());
    }
    Err(Complaint::new("must hold names of variables, not values")
        .with_hint("the values go into the environment of the peer"))
}

#[cfg(test)]
mod tests {
    use crate::config::tests::check;

    #[track_caller]
    fn check_launch(launch: &str, expected: &str) {
        let server = "[servers.x]\ntier = 'stdio'\nurl = 'http://h'\n";
        check("", &format!("{server}launch = {{ {launch} }}"), &[], expected);
    }

    #[test]
    fn a_recipe_names_one_package_in_one_version() {
        check_launch("npm = '@scope/name@2026.8.31', command = 'name', args = ['--stdio', '$']", "");
        check_launch("pypi = ['a.b-c==1.0rc1', 'mcp==1.30.0'], command = 'a.b', env = ['TOKEN_2']", "");
        let either = "s:4: server `x` has a `launch` that needs either `npm` or `pypi`\n  \
             hint: name its package there: `npm = \"NAME@1.2.3\"` or `pypi = \"NAME==1.2.3\"`";
        check_launch("command = 'a'", either);
        check_launch("npm = 'a@1.0.0', pypi = 'a==1.0', command = 'a'", either);
        for pin in ["a", "a@latest", "a@^1.0.0", "a@1", "@a@1.0.0", "@/a@1.0.0", "a b@1.0.0", "@a/../b@1.0.0"]
        {
            check_launch(
                &format!("npm = '{pin}', command = 'a'"),
                "s:4: `servers.x.launch.npm` must be a package of npm and one version of it\n  \
                 hint: write `NAME@1.2.3`",
            );
        }
        for pin in ["a", "a>=1.0", "a==1.*", "==1.0", "a==", "-e==1", "a ==1.0"] {
            check_launch(
                &format!("pypi = '{pin}', command = 'a'"),
                "s:4: `servers.x.launch.pypi` must be a package of PyPI and one version of it\n  \
                 hint: write `NAME==1.2.3`; others that must stay behind their newest version may follow it",
            );
        }
    }

    #[test]
    fn a_recipe_names_a_program_and_the_variables_it_wants() {
        let hint = "hint: add the name of the program that the package installs";
        check_launch(
            "npm = 'a@1.0.0'",
            &format!("s:4: server `x` has a `launch` without `command`\n  {hint}"),
        );
        check_launch(
            "npm = 'a@1.0.0', command = '../a b', env = ['TOKEN=1'], arg = []",
            "s:4: `servers.x.launch.command` must be the name of a program, without a path\n  \
             hint: it is looked for where the package was installed; arguments go into `args`\n\
             s:4: `servers.x.launch.env` must hold names of variables, not values\n  \
             hint: the values go into the environment of the peer\n\
             s:4: `servers.x.launch.arg` is not a known key\n  hint: did you mean `args`?",
        );
        check_launch(
            "npm = 'a@1.0.0', command = 'a', args = ['$ROOT', '$HOME-x'], env = ['ROOTS']",
            "s:4: server `x` has a `launch` with a `$VAR` that its `env` does not name\n  \
             hint: add the variable to `env`",
        );
        check_launch("npm = 'a@1.0.0', command = 'a', args = ['$ROOT'], env = ['ROOT']", "");
    }

    #[test]
    fn only_what_mcpo_runs_has_a_recipe() {
        check(
            "",
            "[servers.x]\ntier = 'http'\nurl = 'https://h/mcp'\nlaunch = { npm = 'a@1.0.0', command = 'a' }",
            &[],
            "s:4: server `x` has a `launch`, but speaks `mcp`\n  \
             hint: leave it out: mcpo makes OpenAPI of what it runs",
        );
    }
}
