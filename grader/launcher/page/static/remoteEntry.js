// "Check this lab" in JupyterLab's launcher and command palette.
//
// A module-federation container written by hand, so that the course installs without Node:
// JupyterLab calls `init` with the modules it shares, then `get('./extension')` for the plugin.
var _JUPYTERLAB = typeof _JUPYTERLAB === 'undefined' ? {} : _JUPYTERLAB;
_JUPYTERLAB['llm-engineering-lab'] = (() => {
  const COMMAND = 'llm-engineering-lab:check';
  const CATEGORY = 'Course';
  const ICON = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" width="24">
    <path class="jp-icon3" fill="#616161" d="M5 3h14a2 2 0 0 1 2 2v5h-2V5H5v14h5v2H5a2 2 0 0 1-2-2V5a2
      2 0 0 1 2-2zm2 4h10v2H7zm0 4h6v2H7zm0 4h3v2H7z"/>
    <path fill="none" stroke="#388e3c" stroke-width="2.5" d="M12 17.5l3.5 3.5 6.5-7"/></svg>`;
  let shared;

  async function jupyterlabs(name) {
    const versions = Object.values(shared[name]);
    const { get } = versions.find(version => version.loaded) ?? versions[0];
    return (await get())();
  }

  /** Save the folder's notebooks that have changes: only what is saved can be checked. */
  async function saveNotebooks(app, folder) {
    for (const { context } of app.shell.widgets('main')) {
      if (context?.path.endsWith('.ipynb') && context.model.dirty) {
        if (folderOf(context.path) === folder) await context.save();
      }
    }
  }

  const folderOf = path => path.slice(0, Math.max(0, path.lastIndexOf('/')));

  async function check(app, browser, program, cwd) {
    const open = app.shell.currentWidget?.context?.path;
    const folder = cwd ?? (open ? folderOf(open) : browser?.model.path) ?? '';
    await saveNotebooks(app, folder);
    const terminal = await app.commands.execute('terminal:create-new', {
      cwd: app.serviceManager.contents.localPath(folder)
    });
    const { session } = terminal.content;
    const type = () => {
      session.messageReceived.disconnect(type);
      session.send({ type: 'stdin', content: [`${program} check\r`] });
    };
    session.messageReceived.connect(type); // the first message is the shell's prompt
  }

  async function plugin() {
    const names = ['launcher', 'apputils', 'filebrowser', 'coreutils', 'ui-components'];
    const [{ ILauncher }, { ICommandPalette }, { IDefaultFileBrowser }, { PageConfig }, { LabIcon }] =
      await Promise.all(names.map(name => jupyterlabs(`@jupyterlab/${name}`)));
    return {
      id: COMMAND,
      description: 'Runs `grader check` for the lab in the current folder.',
      autoStart: true,
      optional: [ILauncher, ICommandPalette, IDefaultFileBrowser],
      activate: (app, launcher, palette, browser) => {
        if (!app.serviceManager.terminals.isAvailable()) return;
        const program = PageConfig.getOption('graderProgram') || 'grader';
        app.commands.addCommand(COMMAND, {
          label: 'Check this lab',
          caption: 'Run the checks of the lab in this folder',
          icon: new LabIcon({ name: COMMAND, svgstr: ICON }),
          execute: ({ cwd }) => check(app, browser, program, cwd)
        });
        launcher?.add({ command: COMMAND, category: CATEGORY });
        palette?.addItem({ command: COMMAND, category: CATEGORY });
      }
    };
  }

  return {
    init: scope => { shared = scope; },
    get: async () => {
      const made = await plugin();
      return () => ({ __esModule: true, default: made });
    }
  };
})();
